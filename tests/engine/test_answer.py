"""`service.engine.text.answer`."""

from __future__ import annotations

import pytest

from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.answer import Answer, AnswerParser
from tests.engine.conftest import job

TRICKY = "Grüße 👩‍🚀 \u2028 a\n\ndata: b <end_of_turn>"


def answer(loaded: LoadedModel, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], Answer]:
    """Feed *text* token by token; return what came out at each, and the answer."""
    found = AnswerParser(loaded.tokenizer).answer(job(stop=stop))
    pieces = []
    for token in loaded.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True):
        pieces.append(found.add(token).text)
        if found.is_over:
            break
    else:
        pieces.append(found.finish().text)
    return pieces, found


def test_answer_gives_back_every_character(loaded: LoadedModel) -> None:
    """Characters cut across tokens come out whole, and nothing is lost at the end."""
    pieces, _ = answer(loaded, TRICKY)

    assert "".join(pieces) == TRICKY
    assert all("\ufffd" not in piece for piece in pieces)


def test_special_tokens_of_the_model_are_not_text(loaded: LoadedModel) -> None:
    """A turn marker that the model makes is a sign, and no part of the answer."""
    found = AnswerParser(loaded.tokenizer).answer(job())
    said = found.add(loaded.tokenizer.convert_tokens_to_ids("<start_of_turn>"))
    text = said.text + found.finish().text

    assert text == ""


def test_log_probability_of_what_is_no_text_has_none(loaded: LoadedModel) -> None:
    """The entries of an answer make its text, and there is one for each token all the same."""
    found = AnswerParser(loaded.tokenizer).answer(job())
    vocabulary = Vocabulary(loaded.tokenizer, len(loaded.tokenizer))
    tokens = loaded.tokenizer.encode("one <start_of_turn>two", add_special_tokens=False)
    said = [found.add(each, vocabulary.token_logprob(each, -1.0, ())) for each in tokens]
    said.append(found.finish())
    entries = [entry for each in said for entry in each.logprobs]

    assert len(tokens) == len(entries)
    assert "".join(each.text for each in said).encode() == b"".join(
        each.chosen.piece for each in entries
    )


@pytest.mark.parametrize("stop", ["sta", "t he", "👩", "re.", "Stop sta"])
def test_stop_text_ends_the_answer_across_token_borders(loaded: LoadedModel, stop: str) -> None:
    """What comes out is exactly what stands before the stop text, and no piece holds any of it."""
    text = "Stop stat here. 👩‍🚀 More."
    pieces, found = answer(loaded, text, (stop, "never"))

    assert found.is_over
    assert stop == found.stop_text
    assert "".join(pieces) == text[: text.index(stop)]


@pytest.mark.parametrize(
    ("stops", "first"),
    [
        (("here", "stat"), "stat"),
        (("stat here", "at"), "at"),
        (("stat here", "star"), "stat here"),
        (("here", "here", " her"), " her"),
        (("never",), None),
    ],
)
def test_stop_text_that_came_first_is_told(
    loaded: LoadedModel, stops: tuple[str, ...], first: str | None
) -> None:
    """Of several stop texts the one that ended the answer is known, one begun within another, too."""
    _, found = answer(loaded, "Stop stat here.", stops)

    assert first == found.stop_text


def test_beginning_of_a_stop_text_is_given_back_when_it_does_not_come(loaded: LoadedModel) -> None:
    """Text held back as a possible stop is released when the answer ends otherwise."""
    pieces, found = answer(loaded, "the end is ne", ("near",))

    assert not found.is_over
    assert found.stop_text is None
    assert "".join(pieces) == "the end is ne"
