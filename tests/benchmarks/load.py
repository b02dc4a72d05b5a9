"""
A load generator that costs little: raw sockets on one event loop, answers counted and not parsed.

The machine has few cores and the client shares them with what it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence

# Questions with long answers: each of the counted tokens is text, and so a chunk of its own.
LONG = (
    "Tell me everything about this server.",
    "Explain all settings.",
    "What happens to a request?",
)
PROMPTS = tuple(LONG[i % len(LONG)] for i in range(8))
N_TOKENS = 128
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


def body(prompt: str, n_tokens: int = N_TOKENS) -> dict[str, object]:
    """Return a request for exactly *n_tokens* greedy tokens, streamed."""
    return {
        "model": "gemma",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": n_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def stream(port: int, request: dict[str, object]) -> int:
    """Send one request and read its stream to the end; return the tokens that its usage counts."""
    payload = json.dumps(request).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload
    )
    tail = b""
    while data := await reader.read(1 << 16):
        tail = (tail + data)[-1024:]
    writer.close()
    found = _USAGE.search(tail)
    assert found is not None, tail
    return int(found.group(1))


async def streams(port: int, prompts: Sequence[str]) -> int:
    """Stream all *prompts* at once; return the tokens of all."""
    return await send_all(port, [body(prompt) for prompt in prompts])


async def send_all(port: int, requests: Sequence[dict[str, object]]) -> int:
    """Send all *requests* at once; return the tokens of all."""
    return sum(await asyncio.gather(*(stream(port, request) for request in requests)))
