"""Settings as a user turns them, seen from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live import GUNICORN, MODULE, UVICORN, running

HELLO = {"model": "gemma", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.mark.parametrize("way", [MODULE, UVICORN, GUNICORN], ids=["module", "uvicorn", "gunicorn"])
def test_environment_is_heard_on_every_way_of_starting(
    way: tuple[str, ...], tmp_path: Path
) -> None:
    """Key, context length, warm-up and log level do what they say, whoever serves the app."""
    with (
        running(
            tmp_path / "log",
            way,
            API_KEY="sesame",
            CONTEXT_LENGTH="128",
            MLX_WARMUP="false",
            LOG_LEVEL="WARNING",
        ) as server,
        server.client() as http,
    ):
        health = server.wait_until("/health", 200).json()
        ready = server.wait_until("/readyz", 200)
        bare = http.get("/v1/models")
        wrong = http.get("/v1/models", headers={"Authorization": "Bearer sesam"})
        http.headers["Authorization"] = "Bearer sesame"
        (model,) = http.get("/v1/models").json()["data"]
        chat = http.post("/v1/chat/completions", json=HELLO)

        assert (health["warmup_enabled"], health["warmup_completed"]) == (False, False)
        assert ready.json()["ready"] is True
        assert (401, 401) == (bare.status_code, wrong.status_code)
        assert bare.json()["error"]["code"] == "invalid_api_key"
        assert model["context_length"] == 128
        assert chat.status_code == 200
        assert "Request started" not in server.log_text()


def test_listening_beyond_this_machine_without_a_key_is_warned_of(tmp_path: Path) -> None:
    """The start says so; with a key it does not."""
    how = (*MODULE, "--host", "0.0.0.0")
    with running(tmp_path / "open", how) as server:
        server.wait_until("/livez", 200)
        assert "Listening on 0.0.0.0 without an API_KEY" in server.log_text()
    with running(tmp_path / "locked", how, API_KEY="sesame") as server:
        server.wait_until("/livez", 200)
        assert "without an API_KEY" not in server.log_text()


def test_address_from_the_environment_is_not_silently_ignored(tmp_path: Path) -> None:
    """Where uvicorn's own command line names another port, that one holds, and the log says so."""
    with running(tmp_path / "log", UVICORN, SERVER_PORT="9999") as server:
        server.wait_until("/livez", 200)

        assert "SERVER_PORT is not read here" in server.log_text()
