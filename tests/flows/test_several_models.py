"""Three models behind one address, two of them in memory at a time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog.card import EMBEDDED_FOLDER
from service.contracts import check
from tests.live import MODULE, LiveServer, running

FILE = """
[[model]]
id = "chat"
path = "{path}"
aliases = ["gpt-4o"]
memory_mb = 400

[[model]]
id = "coder"
path = "{path}"
context_length = 256
memory_mb = 400

[[model]]
id = "critic"
path = "{path}"
memory_mb = 400
idle_timeout = 1
"""
BUDGET_MB = 900  # for two
ANSWER = {"messages": [{"role": "user", "content": "What does /health mean?"}], "temperature": 0}


def write_models(folder: Path, text: str) -> None:
    """Let the file of models hold *text*, all of it at once."""
    (folder / "new.toml").write_text(text.format(path=EMBEDDED_FOLDER))
    (folder / "new.toml").replace(folder / "models.toml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server whose default model is up."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, FILE)
    how = (*MODULE, "--models", str(folder / "models.toml"))
    with running(folder / "log", how, MODELS_MEMORY_MB=str(BUDGET_MB)) as live:
        live.wait_until("/readyz", 200)
        yield live


def states(http: httpx.Client) -> dict[str, str]:
    """Return the state of each model that can be asked for."""
    return {model["id"]: model["state"] for model in http.get("/v1/models").json()["data"]}


def ask(http: httpx.Client, model: str, **more: object) -> httpx.Response:
    """Ask *model*."""
    return http.post(
        "/v1/chat/completions", json={"model": model, "max_tokens": 8, **ANSWER, **more}
    )


def test_models_come_when_they_are_asked_for_and_make_room(server: LiveServer) -> None:
    """All are listed; the guide's gate speaks of the default; the third takes the room of the second."""
    with server.client() as http:
        health = http.get("/health").json()
        assert {"chat": "ready", "coder": "unloaded", "critic": "unloaded"} == states(http)
        assert ("chat", True) == (health["model_id"], health["models_healthy"])
        first = ask(http, "gpt-4o")
        assert ("chat", 1) == (first.json()["model"], len(server.engines()))

        second = ask(http, "coder")
        assert "coder" == second.json()["model"]
        assert 2 == len(server.engines())
        assert 256 == http.get("/v1/models/coder").json()["context_length"]
        said = [each.json()["choices"][0]["message"]["content"] for each in (first, second)]
        assert said[0] == said[1] != ""

        third = ask(http, "critic", stream=True)
        assert 200 == third.status_code
        assert third.text.endswith("data: [DONE]\n\n")
        assert ("ready", "unloaded") == (states(http)["chat"], states(http)["coder"])
        assert 2 == len(server.engines())

        deadline_s = time.monotonic() + 30
        while len(server.engines()) > 1:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        (critic,) = [m for m in http.get("/readyz").json()["models"] if m["id"] == "critic"]
        assert ("unloaded", "nobody asked for it") == (critic["state"], critic["reason"])


def admin(http: httpx.Client, what: str) -> dict[str, Any]:
    """Do one thing to one model, such as `coder/load`; return what is said of it."""
    answer = http.post(f"/admin/models/{what}")
    assert 200 == answer.status_code, answer.text
    entry: dict[str, Any] = answer.json()
    check("admin-model", entry)
    return entry


def test_operator_loads_pins_and_unloads(server: LiveServer) -> None:
    """One that is pinned makes no room; one that answers is not unloaded, and its stream goes on."""
    with server.client() as http:
        up = admin(http, "coder/load")
        assert ("coder", False) == (up["id"], up["pinned"])
        assert up["state"] in {"warming", "ready"}
        assert admin(http, "coder/pin")["pinned"]
        refused = ask(http, "critic").json()["error"]
        assert "insufficient_memory" == refused["code"]
        assert not admin(http, "coder/unpin")["pinned"]

        listed = http.get("/admin/models").json()
        check("admin-model-list", listed)
        assert BUDGET_MB * 1_000_000 == listed["memory"]["limit_bytes"]
        assert [400_000_000] * 3 == [model["planned_bytes"] for model in listed["models"]]
        assert ["gpt-4o"] == listed["models"][0]["aliases"]
        assert [True, True, False] == [model["held_bytes"] > 0 for model in listed["models"]]

        long = {"model": "coder", "stream": True, **ANSWER, "ignore_eos": True, "max_tokens": 150}
        with http.stream("POST", "/v1/chat/completions", json=long) as stream:
            lines = stream.iter_lines()
            next(lines)
            with server.client() as other:
                in_use = other.post("/admin/models/coder/unload")
            assert (409, "model_in_use") == (in_use.status_code, in_use.json()["error"]["code"])
            assert "data: [DONE]" in [*lines]
        deadline_s = time.monotonic() + 10
        while (gone := http.post("/admin/models/coder/unload")).status_code == 409:
            assert time.monotonic() < deadline_s  # the request leaves a moment after its last byte
        assert ("unloaded", 0) == itemgetter("state", "held_bytes")(gone.json())
        assert 1 == len(server.engines())
        stays = http.post("/admin/models/gpt-4o/unload").json()["error"]
        assert "model_in_use" == stays["code"]
        assert "model_not_found" == http.post("/admin/models/x/pin").json()["error"]["code"]


OTHER_FILE = FILE.replace("256", "128").replace('"critic"', '"judge"') + 'aliases = ["j"]\n'


def test_models_are_read_again_without_dropping_a_stream(server: LiveServer) -> None:
    """New ones come, changed and gone ones leave when they have answered; a bad file changes nothing."""
    folder = server.log.parent
    (default,) = server.engines()
    with server.client() as http:
        long = {"model": "coder", "stream": True, **ANSWER, "ignore_eos": True, "max_tokens": 150}
        with http.stream("POST", "/v1/chat/completions", json=long) as stream:
            lines = stream.iter_lines()
            next(lines)
            with server.client() as other:
                write_models(folder, OTHER_FILE + "colour = 1\n")
                refused = other.post("/admin/reload").json()["error"]
                assert "invalid_models_file" == refused["code"]
                assert "models.toml, line 20: unknown key 'colour'" in refused["message"]
                assert ["chat", "coder", "critic"] == [*states(other)]

                write_models(folder, OTHER_FILE)
                changes = other.post("/admin/reload").json()
                check("admin-reload", changes)
                assert {"added": ["judge"], "changed": ["coder"], "removed": ["critic"]} == changes
                assert ["chat", "coder", "judge"] == [*states(other)]
                assert "model_not_found" == ask(other, "critic").json()["error"]["code"]
            assert "data: [DONE]" in [*lines]
        assert "coder" == ask(http, "coder").json()["model"]
        assert 128 == http.get("/v1/models/coder").json()["context_length"]
        assert "judge" == ask(http, "j").json()["model"]
        assert default in server.engines()

        write_models(folder, FILE)
        server.process.send_signal(signal.SIGHUP)
        deadline_s = time.monotonic() + 10
        while ["chat", "coder", "critic"] != [*states(http)]:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        assert "chat" == ask(http, "chat").json()["model"]
        assert default in server.engines()


def test_name_of_no_model_names_those_that_are_served(server: LiveServer) -> None:
    """The loaded and the others; and none is meant where none is named."""
    with server.client() as http:
        wrong = ask(http, "gpt-5").json()["error"]
        unnamed = http.post("/v1/chat/completions", json=ANSWER).json()["error"]

    assert "model_not_found" == wrong["code"] == unnamed["code"]
    assert "Served: chat, gpt-4o, coder, critic." in wrong["message"]


def test_bad_file_stops_the_start(tmp_path: Path) -> None:
    """With its line, on the terminal, and no traceback."""
    (tmp_path / "models.toml").write_text('[[model]]\nid = "a"\npath = "./a"\n')
    with running(tmp_path / "log", (*MODULE, "--models", str(tmp_path / "models.toml"))) as live:
        live.process.wait(30)
        told = live.log_text()

    assert "models.toml, line 2" in told
    assert "Traceback" not in told
