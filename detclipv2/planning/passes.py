"""FLOPs by pass."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PassFlops:
    """FLOPs of a part of the network."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both passes."""
        return self.forward + self.backward
