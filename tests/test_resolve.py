"""Which model a name means."""

import pytest

from service.catalog.resolve import resolve, with_id
from service.errors import ModelNotFound
from service.protocol import ModelCard


def card(model_id: str, family: str) -> ModelCard:
    """Return a card that differs in id and family alone."""
    return ModelCard(model_id, family, "A model.", 4096, 1)


GEMMA = card("local-mlx/gemma-3-demo", "gemma")
LLAMA = card("a/llama-1b", "llama")
LLAMA_TOO = card("b/llama-1b", "llama")
NAMED_LIKE_A_FAMILY = card("c/gemma", "qwen")
ALL = [GEMMA, LLAMA, LLAMA_TOO]


@pytest.mark.parametrize(
    ("name", "cards", "expected"),
    [
        ("local-mlx/gemma-3-demo", ALL, GEMMA),
        ("gemma-3-demo", ALL, GEMMA),
        ("gemma", ALL, GEMMA),
        ("a/llama-1b", ALL, LLAMA),
        ("llama", [GEMMA, LLAMA], LLAMA),
        ("gemma", [GEMMA, NAMED_LIKE_A_FAMILY], NAMED_LIKE_A_FAMILY),
    ],
)
def test_name_when_it_stands_for_one(
    name: str, cards: list[ModelCard], expected: ModelCard
) -> None:
    """The id, its last part, or a family of one: in this order."""
    assert expected == resolve(name, cards)


@pytest.mark.parametrize(
    "name",
    [
        "llama-1b", "llama", "gpt-4", "", "local-mlx", "Gemma", "gemma ", "local-mlx/",
        "/", "..", "../../etc/passwd", "gemma\0", "https://example.com/m",
    ],
)  # fmt: skip
def test_name_when_it_stands_for_none_or_several(name: str) -> None:
    """Shared, unknown and hostile names are not found; the error points at `model` alone."""
    with pytest.raises(ModelNotFound) as caught:
        resolve(name, ALL)

    assert (404, "model_not_found", "model") == (
        caught.value.status, caught.value.code, caught.value.param,
    )  # fmt: skip
    assert not name or name in {"/", "..", "gemma "} or name not in caught.value.message


def test_name_when_there_are_no_models() -> None:
    """Nothing served, nothing found."""
    with pytest.raises(ModelNotFound):
        resolve("gemma", [])


def test_id_when_exact() -> None:
    """A single model is fetched by its whole id."""
    assert LLAMA_TOO == with_id("b/llama-1b", ALL)


@pytest.mark.parametrize("model_id", ["gemma", "gemma-3-demo", "", "A/LLAMA-1B", "a%2Fllama-1b"])
def test_id_when_not_exact(model_id: str) -> None:
    """Short names are for requests; discovery wants the id as it is listed."""
    with pytest.raises(ModelNotFound):
        with_id(model_id, ALL)
