"""Guidance: programs whose gaps the server fills, each held to a form by it."""

from __future__ import annotations

from forecast import Forecast
from guidance import assistant, gen, regex, select, user
from guidance import json as json_gen
from guidance.models.experimental import VLLMModel
from openai import BadRequestError
from steps import API, KEY, MODEL, QUESTION, Steps, refusal

step = Steps("guidance")


def asked() -> VLLMModel:
    """Return a program that has asked the question; the server speaks vLLM's dialect of forms."""
    lm = VLLMModel(MODEL, base_url=API, api_key=KEY, echo=False)
    with user():
        lm += QUESTION
    return lm


@step
def generate() -> str:
    lm = asked()
    with assistant():
        lm += gen("answer", regex="[A-Z][^.]{4,60}[.]", max_tokens=60)
    assert lm["answer"]
    return lm["answer"]


@step
def gap_that_may_be_empty_is_refused() -> str:
    """Guidance sends it as a terminal that matches the empty text, over which llguidance may never end."""
    program = asked()
    with assistant():
        error = refusal(BadRequestError, lambda: program + gen("answer", max_tokens=60))
    assert "empty text" in str(error)
    return str(error)


@step
def choose() -> str:
    lm = asked()
    with assistant():
        lm += select(["clear", "cloudy"], name="sky")
    assert lm["sky"] in {"clear", "cloudy"}
    return lm["sky"]


@step
def keep_to_a_regex() -> str:
    lm = asked()
    with assistant():
        lm += regex("[a-z]{3,8}", name="word")
    assert 3 <= len(lm["word"]) <= 8
    return lm["word"]


@step
def structured_by_pydantic() -> Forecast:
    lm = asked()
    with assistant():
        lm += json_gen(name="forecast", schema=Forecast, max_tokens=200)
    return Forecast.model_validate_json(lm["forecast"])
