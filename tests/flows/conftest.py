"""Fixtures of the flows."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.live import LiveServer


@pytest.fixture(scope="session")
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    """The official client of the default server, as anyone would set it up."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client
