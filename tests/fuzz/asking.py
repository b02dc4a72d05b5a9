"""What the long runs ask: bodies, requests as bytes, and connections that are kept or left."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.live import LiveServer

CHAT = "/v1/chat/completions"
TIMEOUT_S = 60.0
READY_S = 300.0  # of a machine that does much besides


def chat(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Return a greedy chat."""
    messages = [{"role": "user", "content": content}]
    return {"model": "gemma", "messages": messages, "temperature": 0} | fields


def posted(body: dict[str, Any], path: str = CHAT) -> bytes:
    """Return a whole request."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def connected(server: LiveServer) -> socket.socket:
    """Return a connection to the *server*."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


def percentile(values: list[float], share: float) -> float:
    """Return the smallest of *values* that a *share* of them, from 0 to 1, doesn't pass."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
