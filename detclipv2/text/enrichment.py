"""Concept enrichment: a category name is encoded together with its definition (section 3.1 of arXiv:2304.04514).

In training and at inference alike, and for category names of detection alone: the paper describes it for these, and in 16
tokens phrases and captions would leave it little room (method U6).

Shapes: Q queries, K concepts with a definition, D embedding width.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from detclipv2.text.dictionary import ConceptDictionary, normalise

_SIMILARITY_BYTES = 2**24  # of one block of the similarity matrix
_TEXTS_PER_CALL = 256
# Cosines that differ by less are equal: rounding depends on how a product is cut into blocks, the choice must not.
_DECIMALS = 5


class Enricher:
    """Turns category names into the texts that are encoded for them.

    A name that the dictionary does not define takes the definition of the nearest concept, by cosine of text embeddings,
    that it does define. What is nearest is remembered, so a name keeps its text while a text encoder is being trained.

    Args:
        dictionary: needed for definitions.
        prompt: has one "{}", where the name goes: "a photo of a {}".
        definitions: whether a name is followed by its definition (U7): "{name}, {definition}".
        encode: text embeddings [M, D] of M texts, of any length; needed for definitions. Called for the dictionary once.

    Raises:
        ValueError: the prompt has no "{}" or several, or definitions are on and there are none or no encoder.
    """

    def __init__(
        self,
        dictionary: ConceptDictionary | None = None,
        *,
        prompt: str = "{}",
        definitions: bool = False,
        encode: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        if prompt.count("{}") != 1:
            raise ValueError(f"prompt {prompt!r}: wanted one {{}}, where the name goes, such as 'a photo of a {{}}'")
        if definitions and (dictionary is None or not dictionary.defined or encode is None):
            raise ValueError(
                "definitions need a concept dictionary that has some, which `detclip dictionary` makes, and a text encoder"
            )
        self.prompt = prompt
        self._dictionary = dictionary if definitions else None
        self._encode = encode
        self._concepts: Tensor | None = None  # [K, D]
        self._nearest: dict[str, str] = {}  # definitions by normalised name

    def texts(self, names: Sequence[str], *, own_definitions: Mapping[str, str] | None = None) -> list[str]:
        """The text of each category name, in order.

        Args:
            names: category names.
            own_definitions: definitions that the categories bring along, by name, as LVIS's do; they take precedence.

        Raises:
            ValueError: a name is empty.
        """
        for number, name in enumerate(names, 1):
            if not normalise(name):
                raise ValueError(f"name number {number} of {len(names)} is empty")
        prompted = [self.prompt.replace("{}", name) for name in names]
        if self._dictionary is None:
            return prompted
        own = {normalise(name): definition for name, definition in (own_definitions or {}).items()}
        found = {name: own.get(name) or self._dictionary.definition(name) for name in map(normalise, names)}
        self._find([name for name, definition in found.items() if definition is None and name not in self._nearest])
        definitions = [found[name] or self._nearest[name] for name in map(normalise, names)]
        return [f"{text}, {definition}" for text, definition in zip(prompted, definitions, strict=True)]

    def resolved(self, names: Sequence[str]) -> ConceptDictionary | None:
        """The dictionary with a definition for each of these names, the nearest concept's where it had none; None without one.

        What was nearest depends on the encoder, so a model that is trained with these texts takes this along.
        """
        if self._dictionary is None:
            return None
        missing = [name for name in map(normalise, names) if self._dictionary.definition(name) is None]
        self._find([name for name in missing if name not in self._nearest])
        return ConceptDictionary(
            definitions=self._dictionary.definitions | {name: self._nearest[name] for name in missing}
        )

    def _find(self, names: list[str]) -> None:
        """Remember the definition of the concept nearest to each name."""
        if not names:
            return
        assert self._dictionary is not None
        concepts = self._dictionary.defined
        if self._concepts is None:
            self._concepts = self._embed(concepts)
        for name, index in zip(names, nearest(self._embed(names), self._concepts).tolist(), strict=True):
            self._nearest[name] = str(self._dictionary.definitions[concepts[index]])

    @torch.no_grad()
    def _embed(self, names: list[str]) -> Tensor:
        """Unit-length embeddings [M, D] of bare names, on the CPU."""
        assert self._encode is not None
        chunks = [names[start : start + _TEXTS_PER_CALL] for start in range(0, len(names), _TEXTS_PER_CALL)]
        return torch.cat([F.normalize(self._encode(chunk).float(), dim=-1).cpu() for chunk in chunks])


def nearest(queries: Tensor, concepts: Tensor, *, max_bytes: int = _SIMILARITY_BYTES) -> Tensor:
    """Index [Q] of the concept with the highest dot product; the lowest index among equals.

    Args:
        queries: unit-length embeddings [Q, D].
        concepts: unit-length embeddings [K, D].
        max_bytes: of the similarities that exist at any time.
    """
    rows = max(1, max_bytes // (len(concepts) * concepts.element_size()))
    # One buffer for all blocks: of a new one each the allocator kept nearly all, which is the whole matrix in the end.
    buffer = concepts.new_empty(min(rows, len(queries)), len(concepts))
    indices = torch.empty(len(queries), dtype=torch.long)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        similarities = torch.mm(block, concepts.T, out=buffer[: len(block)])
        indices[start : start + rows] = similarities.round_(decimals=_DECIMALS).argmax(dim=1)
    return indices
