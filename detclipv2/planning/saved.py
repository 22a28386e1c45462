"""What the forward pass keeps for the backward pass."""

from collections.abc import Iterable

from torch import Tensor


class SavedTensors:
    """Adds up the memory that saved tensors hold: the ``pack`` of ``torch.autograd.graph.saved_tensors_hooks``.

    Args:
        but: tensors that are there anyway, such as parameters.
    """

    def __init__(self, *, but: Iterable[Tensor] = ()) -> None:
        self._others = {_storage(tensor) for tensor in but}
        # The tensors too, since the storage of one that is gone may come back as another's.
        self._held: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage, once."""
        if _storage(tensor) not in self._others:
            self._held.setdefault(_storage(tensor), tensor)
        return tensor

    @property
    def num_bytes(self) -> int:
        """Of all that was saved."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self._held.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
