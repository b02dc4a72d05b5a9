"""Which model a name means."""

import pytest

from service.catalog.resolve import Names
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
ALIASES = {
    "gpt-4": "a/llama-1b",
    "claude": "gemma-3-demo",
    "small": "gemma",
    "a/llama-1b": "gemma",
    "dead": "gone",
    "round": "gpt-4",
}
NAMES = Names(ALIASES)


@pytest.mark.parametrize(
    ("name", "cards", "expected"),
    [
        ("local-mlx/gemma-3-demo", ALL, GEMMA),
        ("gemma-3-demo", ALL, GEMMA),
        ("gemma", ALL, GEMMA),
        ("b/llama-1b", ALL, LLAMA_TOO),
        ("llama", [GEMMA, LLAMA], LLAMA),
        ("gemma", [GEMMA, NAMED_LIKE_A_FAMILY], NAMED_LIKE_A_FAMILY),
        ("gpt-4", ALL, LLAMA),
        ("claude", ALL, GEMMA),
        ("small", ALL, GEMMA),
        ("a/llama-1b", ALL, LLAMA),
    ],
)
def test_name_when_it_stands_for_one(
    name: str, cards: list[ModelCard], expected: ModelCard
) -> None:
    """The id, an alias, the id's last part, or a family of one: in this order."""
    assert expected == NAMES.resolve(name, cards)


@pytest.mark.parametrize(
    "name",
    [
        "llama-1b", "llama", "gpt-5", "", "local-mlx", "Gemma", "gemma ", "local-mlx/", "dead", "round",
        "/", "..", "../../etc/passwd", "gemma\0", "https://example.com/m", None,
    ],
)  # fmt: skip
def test_name_when_it_stands_for_none_or_several(name: str | None) -> None:
    """Shared, unknown and hostile names are not found; the error tells what is served and no name given."""
    with pytest.raises(ModelNotFound) as caught:
        NAMES.resolve(name, ALL)

    error = caught.value
    assert (404, "model_not_found", "model") == (error.status, error.code, error.param)
    assert error.message.endswith(
        " Served: local-mlx/gemma-3-demo, claude, small, a/llama-1b, gpt-4, b/llama-1b."
    )


@pytest.mark.parametrize("names", [Names(), NAMES, Names(takes_any=True)])
def test_no_name_means_the_only_model(names: Names) -> None:
    """Where there is but one, nothing need be said; where there is none, nothing helps."""
    assert LLAMA == names.resolve(None, [LLAMA])
    with pytest.raises(ModelNotFound):
        names.resolve(None, [])


def test_any_name_means_the_only_model_where_it_may() -> None:
    """By a setting alone, and never one of several."""
    assert LLAMA == Names(takes_any=True).resolve("gpt-5", [LLAMA])
    with pytest.raises(ModelNotFound):
        Names().resolve("gpt-5", [LLAMA])
    with pytest.raises(ModelNotFound):
        Names(takes_any=True).resolve("gpt-5", ALL)


def test_aliases_of_a_model() -> None:
    """Those that lead there, and none that a model's own id hides or that leads nowhere."""
    assert ["claude", "small"] == NAMES.of(GEMMA, ALL)
    assert ["gpt-4"] == NAMES.of(LLAMA, ALL)
    assert [] == NAMES.of(LLAMA_TOO, ALL)
