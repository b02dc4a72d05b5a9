"""What was read before is not read again, over HTTP and over a restart."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import httpx

from tests.live import running

SYSTEM = (
    "You answer briefly. " + "The port is 8000, the host is local, and the rest is silence. " * 12
)


def asked(client: httpx.Client, *messages: tuple[str, str], **fields: Any) -> tuple[str, int, int]:
    """Return the answer to a chat, how many tokens its prompt had, and how many of them were cached."""
    body = {
        "model": "gemma",
        "messages": [{"role": role, "content": content} for role, content in messages],
        "temperature": 0,
        "max_tokens": 24,
    }
    response = client.post("/v1/chat/completions", json=body | fields)
    assert response.status_code == 200, response.text
    found = response.json()
    usage = found["usage"]
    n_cached = usage["prompt_tokens_details"]["cached_tokens"]
    return found["choices"][0]["message"]["content"], usage["prompt_tokens"], n_cached


def is_whole(file: Path) -> bool:
    """Whether a file has all that was written, which its name is the digest of."""
    return file.stem == hashlib.sha256(file.read_bytes()).hexdigest()


def test_turns_restarts_and_damage(tmp_path: Path) -> None:
    """A second turn, a server started anew, and one of damaged files answer alike; no end cuts a file."""
    first = ("system", SYSTEM), ("user", "Which port?")
    with running(tmp_path / "log", PREFIX_CACHE_PATH=str(tmp_path / "prefixes")) as live:
        live.wait_until("/readyz", 200)
        with live.client() as client:
            said, n_prompt, n_cached = asked(client, *first)
            assert n_cached == 0
            again = asked(client, *first)
            turns = *first, ("assistant", said), ("user", "And the host?")
            second, _, n_cached = asked(client, *turns)
            assert again == (said, n_prompt, n_prompt - 1)
            assert n_cached >= n_prompt - 1
            for n in range(8):  # so that files wait to be written when the end comes
                asked(client, ("system", f"{n}. {SYSTEM}"), ("user", "Which port?"), max_tokens=1)
        live.end()
    files = list((tmp_path / "prefixes").rglob("*.safetensors"))
    assert files
    assert all(map(is_whole, files))
    with running(tmp_path / "log2", PREFIX_CACHE_PATH=str(tmp_path / "prefixes")) as live:
        live.wait_until("/readyz", 200)
        with live.client() as client:
            answer, _, n_cached = asked(client, *turns)
            assert answer == second
            assert n_cached >= n_prompt - 1
    files = list((tmp_path / "prefixes").rglob("*.safetensors"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:-100])
    with running(tmp_path / "log3", PREFIX_CACHE_PATH=str(tmp_path / "prefixes")) as live:
        live.wait_until("/readyz", 200)
        assert "damaged" in live.log_text()
        with live.client() as client:
            assert asked(client, *turns)[::2] == (second, 0)
            for n in range(8):
                asked(client, ("system", f"{n}. {SYSTEM}"), ("user", "Which host?"), max_tokens=1)
        os.kill(live.engine_pid(), signal.SIGKILL)
        files = list((tmp_path / "prefixes").rglob("*.safetensors"))
        assert all(is_whole(file) for file in files if not file.name.startswith("unfinished-"))


def test_several_answers_read_their_prompt_once(client: httpx.Client) -> None:
    """Usage counts as cached what no answer had to read; of several prompts all together."""
    drawn = {"n": 3, "temperature": 1, "seed": 1}
    chat = ("system", SYSTEM), ("user", "Which port?")
    _, n_prompt, n_cached = asked(client, *chat, **drawn)
    assert n_cached < n_prompt / 2
    assert asked(client, *chat, **drawn)[2] == n_prompt - 1
    body = {"model": "gemma", "prompt": [SYSTEM, SYSTEM + " So"], "n": 2, "max_tokens": 2}
    usages = [client.post("/v1/completions", json=body).json()["usage"] for _ in range(2)]

    n_prompts = usages[1]["prompt_tokens"]
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == n_prompts - 2
