"""A draft model beside the model, from the setting to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.catalog.card import EMBEDDED_FOLDER
from tests.live import LiveServer, running

QUESTIONS = ("What does /health mean?", "How do I set the port?")


def answers(server: LiveServer) -> list[Any]:
    """Return what the model says to some questions, greedily and by chance."""
    server.wait_until("/readyz", 200)
    bodies = [
        {
            "model": "gemma",
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 60,
            "temperature": temperature,
            "seed": 5,
        }
        for question in QUESTIONS
        for temperature in (0, 0.8)
    ]
    with server.client() as http:
        told = [http.post("/v1/chat/completions", json=body).json() for body in bodies]
    return [(one["choices"], one["usage"]["completion_tokens"]) for one in told]


def test_answers_are_those_without_a_draft(server: LiveServer, tmp_path: Path) -> None:
    """The built-in model drafts for itself, and nobody can tell by what is said."""
    with running(tmp_path / "with", DRAFT_MODEL=str(EMBEDDED_FOLDER)) as drafting:
        drafted = answers(drafting)

    assert answers(server) == drafted
