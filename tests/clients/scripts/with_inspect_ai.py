"""Inspect AI: an evaluation of one question."""

from __future__ import annotations

import os
import tempfile

from steps import API, KEY, MODEL, QUESTION, Steps

os.environ |= {"LOCAL_API_KEY": KEY, "LOCAL_BASE_URL": API}

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes

step = Steps("inspect-ai")


@step
def evaluate() -> str:
    task = Task(dataset=[Sample(input=QUESTION, target="health")], scorer=includes())
    folder = tempfile.mkdtemp()
    (log,) = eval(task, model=f"openai-api/local/{MODEL}", log_dir=folder, display="none")
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["accuracy"].value == 1
    return log.samples[0].output.completion
