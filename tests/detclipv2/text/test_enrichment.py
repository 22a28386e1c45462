import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.text.enrichment import Enricher, nearest

DICTIONARY = ConceptDictionary(
    definitions={
        "car": "a motor vehicle",
        "cat": "a feline mammal",
        "dog": "a canine",
        "minivan": None,
        "truck": "a vehicle for hauling",
    }
)
# By hand: cosines to (car, cat, dog, truck).
EMBEDDINGS = {
    "car": [1.0, 0.0],
    "cat": [0.0, 1.0],
    "dog": [0.0, 2.0],  # as the cat, once it has unit length
    "truck": [3.0, 3.0],
    "minivan": [1.0, 0.3],  # 0.958, 0.287, 0.287, 0.880
    "lorry": [1.0, 0.5],  # 0.894, 0.447, 0.447, 0.949
    "kitten": [-0.1, 1.0],  # -0.100, 0.995, 0.995, 0.632
}


class Encoder:
    """Embeddings from the table, with a record of what was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Tensor:
        self.calls.append(texts)
        return torch.tensor([EMBEDDINGS[text] for text in texts], requires_grad=True)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def enricher(encoder: Encoder) -> Callable[..., Enricher]:
    return lambda prompt="{}": Enricher(DICTIONARY, prompt=prompt, definitions=True, encode=encoder)


def test_a_prompt_alone() -> None:
    assert Enricher().texts(["Red Car", "cat_{0}"]) == ["Red Car", "cat_{0}"]
    assert Enricher(prompt="a photo of a {}.").texts(["car"]) == ["a photo of a car."]
    assert Enricher(DICTIONARY).texts(["car"]) == ["car"]


def test_a_definition_follows_the_name(enricher: Callable[..., Enricher], encoder: Encoder) -> None:
    assert enricher().texts(["Dogs", "car_(automobile)"]) == ["Dogs, a canine", "car_(automobile), a motor vehicle"]
    assert enricher("a photo of a {}").texts(["cat"]) == ["a photo of a cat, a feline mammal"]
    assert encoder.calls == [], "what the dictionary defines needs no neighbours"


def test_otherwise_that_of_the_nearest_concept(enricher: Callable[..., Enricher]) -> None:
    texts = enricher().texts(["Lorry", "dog", "minivan", "kitten", "lorry"])

    assert texts == [
        "Lorry, a vehicle for hauling",
        "dog, a canine",
        "minivan, a motor vehicle",  # itself in the dictionary, without a definition
        "kitten, a feline mammal",  # as near as the dog, and first
        "lorry, a vehicle for hauling",
    ]


def test_neighbours_are_looked_for_once(enricher: Callable[..., Enricher], encoder: Encoder) -> None:
    both = enricher()
    first = both.texts(["lorry"])

    assert both.texts(["lorry", "kitten"]) == [*first, "kitten, a feline mammal"]
    assert encoder.calls == [["car", "cat", "dog", "truck"], ["lorry"], ["kitten"]]


def test_own_definitions_go_before_all(enricher: Callable[..., Enricher], encoder: Encoder) -> None:
    own = {"car": "what LVIS says", "Mini_Van": "a small van"}

    assert enricher().texts(["Car", "mini van", "cat"], own_definitions=own) == [
        "Car, what LVIS says",
        "mini van, a small van",
        "cat, a feline mammal",
    ]
    assert encoder.calls == []


def test_the_nearest_by_a_double_loop_in_blocks_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, concepts = (
        torch.nn.functional.normalize(torch.randn(count, 5, generator=generator), dim=1) for count in (17, 23)
    )
    wanted = []
    for query in queries.tolist():
        cosines = [math.fsum(a * b for a, b in zip(query, concept, strict=True)) for concept in concepts.tolist()]
        wanted.append(cosines.index(max(cosines)))

    for num_rows in (1, 3, 17, 100):
        assert nearest(queries, concepts, max_bytes=num_rows * 23 * 4).tolist() == wanted
    assert nearest(queries, concepts, max_bytes=1).tolist() == wanted


def test_equals_give_the_first() -> None:
    queries = torch.nn.functional.normalize(torch.randn(50, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    concepts = torch.cat([-queries, queries, queries * (1 - 1e-7), queries])

    for num_rows in (1, 7, 50):
        found = nearest(queries, concepts, max_bytes=num_rows * 200 * 4)
        assert found.tolist() == list(range(50, 100))


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{name}"])
def test_a_bad_prompt(prompt: str) -> None:
    with pytest.raises(ValueError, match="prompt .*: wanted one {}, where the name goes"):
        Enricher(prompt=prompt)


@pytest.mark.parametrize("position", [1, 3])
def test_an_empty_name(position: int) -> None:
    names = ["car", "cat", "dog"]
    names[position - 1] = " _ "

    with pytest.raises(ValueError, match=f"^name number {position} of 3 is empty$"):
        Enricher().texts(names)


def test_definitions_take_a_dictionary_with_definitions_and_an_encoder(encoder: Encoder) -> None:
    for dictionary, encode in (
        (None, encoder),
        (ConceptDictionary(definitions={"car": None}), encoder),
        (DICTIONARY, None),
    ):
        with pytest.raises(ValueError, match="definitions need a concept dictionary that has some"):
            Enricher(dictionary, definitions=True, encode=encode)


def test_what_was_nearest_is_taken_along(enricher: Callable[..., Enricher]) -> None:
    resolved = enricher().resolved(["Lorry", "dogs", "minivan"])

    assert resolved is not None
    assert resolved.definitions == DICTIONARY.definitions | {
        "lorry": "a vehicle for hauling",
        "minivan": "a motor vehicle",
    }
    assert Enricher(resolved, definitions=True, encode=lambda _: torch.zeros(0, 2)).texts(["lorry"]) == [
        "lorry, a vehicle for hauling"
    ]
    assert Enricher(DICTIONARY).resolved(["lorry"]) is None
