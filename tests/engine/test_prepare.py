"""`service.engine.prepare`."""

from __future__ import annotations

import pytest

from service.engine.model.load import LoadedModel
from service.engine.model.vocabulary import Vocabulary
from service.engine.prepare import Preparer
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Constraint, Sampling, Text
from tests.engine.conftest import job


def test_answer_that_may_be_anything_has_no_mask(preparer: Preparer) -> None:
    """Only what a request constrains is masked, and its prompt is the same."""
    constraint = Constraint("choice", '["yes"]', "response_format")
    free, bound = preparer.prepare(job()), preparer.prepare(job(constraint=constraint))

    assert free.token_mask is None
    assert bound.token_mask is not None
    assert free.ids == bound.ids


def test_bias_for_a_token_that_the_model_does_not_have_is_refused(
    preparer: Preparer, vocabulary: Vocabulary
) -> None:
    """MLX checks no index: the first id behind the logits is too much, the last of them is not."""

    def biased(token: int) -> None:
        preparer.prepare(job(sampling=Sampling(logit_bias=((token, 1.0),))))

    biased(vocabulary.n_logits - 1)
    with pytest.raises(RefusedPrompt) as caught:
        biased(vocabulary.n_logits)

    assert (caught.value.param, caught.value.code) == ("logit_bias", "invalid_token")


def test_form_is_refused_where_the_tokenizer_is_unknown(
    loaded: LoadedModel, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a form gets it or an error that names the field; free answers are served."""
    monkeypatch.setattr(vocabulary, "ll_tokenizer", None)
    unmasked = Preparer(loaded.tokenizer, loaded.card.context_length, vocabulary)
    unmasked.prepare(job())
    with pytest.raises(RefusedPrompt, match="unknown to llguidance") as caught:
        unmasked.prepare(job(constraint=Constraint("regex", "a+", "structured_outputs.regex")))

    assert (caught.value.param, caught.value.code) == (
        "structured_outputs.regex",
        "invalid_grammar",
    )


def test_tokens_of_a_text_are_its_bytes(preparer: Preparer) -> None:
    """Characters cut across tokens are whole again in the pieces put together, and in the text."""
    text = "Grüße 👩‍🚀 \u2028 <end_of_turn>"
    ids = preparer.ids(Text(text))

    assert b"".join(preparer.pieces(ids)).decode().endswith(text)
    assert preparer.text(ids).endswith(text)


def test_text_of_tokens_that_the_model_does_not_have_is_refused(
    preparer: Preparer, vocabulary: Vocabulary
) -> None:
    """An id behind the vocabulary has no text."""
    with pytest.raises(RefusedPrompt) as caught:
        preparer.text([5, vocabulary.n_tokens])

    assert caught.value.code == "invalid_token"
