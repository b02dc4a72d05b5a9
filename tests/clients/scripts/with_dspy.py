"""DSPy: its language model by itself, and programs with typed answers and with a tool."""

from __future__ import annotations

import os
import tempfile

os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks for prices when imported
    "DSPY_CACHEDIR": tempfile.mkdtemp(),
}

from typing import Literal

import dspy
from steps import API, KEY, MODEL, QUESTION, Steps

step = Steps("dspy")
lm = dspy.LM(f"openai/{MODEL}", api_base=API, api_key=KEY, num_retries=0, cache=False)
dspy.configure(lm=lm)


class Sky(dspy.Signature):
    """Tell the sky."""

    question: str = dspy.InputField()
    sky: Literal["clear", "cloudy", "rain"] = dspy.OutputField()
    windy: bool = dspy.OutputField()


@step
def call() -> str:
    (answer,) = lm(QUESTION)
    assert answer
    return str(answer)


@step
def structured_by_json_schema() -> str:
    """DSPy makes no schema for a model that litellm doesn't know, so the schema is given by hand."""
    schema = {
        "type": "object",
        "properties": {"sky": {"enum": ["clear", "cloudy", "rain"]}, "windy": {"type": "boolean"}},
        "required": ["sky", "windy"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema}}
    with dspy.context(adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Sky)(question=QUESTION, config={"response_format": form})
    assert answer.sky in {"clear", "cloudy", "rain"}
    assert isinstance(answer.windy, bool)
    return f"{answer.sky}, {answer.windy}"
