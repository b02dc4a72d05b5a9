"""What stands between an agent and the server passes all on, and reads how much of a prompt was cached."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.clients.recorder import recording
from tests.live import LiveServer

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT | {"stream_options": {"include_usage": True}},
    "/v1/messages": CHAT | {"max_tokens": 16},
    "/v1/responses": {"input": "Hello"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", BODIES)
def test_usage_is_read_off_each_interface(server: LiveServer, path: str, stream: bool) -> None:
    """Asked a second time, most of the prompt is told as cached."""
    body = BODIES[path] | {"model": "gemma", "stream": stream}
    if not stream:
        body.pop("stream_options", None)
    with recording(server.url) as recorder:
        for _ in range(2):
            httpx.post(recorder.url + path, json=body, timeout=30).raise_for_status()

    usage = recorder.exchanges[1].usage
    assert usage is not None
    total, cached = usage
    assert total / 2 < cached < total


def test_world_is_shut(server: LiveServer) -> None:
    """Through it as a proxy nobody is reached, and who was asked for is known."""
    with (
        recording(server.url) as recorder,
        httpx.Client(proxy=recorder.url, trust_env=False) as client,
    ):
        with pytest.raises(httpx.ProxyError):
            client.get("https://example.org")
        assert 403 == client.get("http://example.com").status_code

    assert ["example.org:443", "example.com"] == recorder.outside
