"""
A Tier 2 in one file, with OpenAI's own client: `python -m conformance.clients.example http://127.0.0.1:8000`.

It lives the loop that the guide describes: wait until the server is ready and warm, choose a model
by its tags, send chats that carry an id, watch what they take, and stay on its feet when the server
is busy or a stream breaks. It is judged as any client is, by
`python -m conformance.clients python -m conformance.clients.example {url}`.
"""

import sys
import time
import uuid
from typing import Any

import httpx
import openai

READY_WITHIN_S = 120.0
PAUSE_S = 0.5
MAX_TOKENS = 64
QUESTIONS = ("Who are you?", "What is a token?")
STREAMED = ("Say hello.", "Count to three.", "What is a stream?")


class Tier2:
    """A client of one Tier 3A server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # The client itself comes again after 429 and 503, when Retry-After says so.
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=4)

    def wait_until_ready(self) -> None:
        """
        Look at /health until the models are healthy and, if there is one, the warm-up is over.

        Raises:
            TimeoutError: that takes too long.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.is_ready():
                return
            time.sleep(PAUSE_S)
        raise TimeoutError(f"{self.url} wasn't ready within {READY_WITHIN_S:g} s")

    def is_ready(self) -> bool:
        """Whether the server may be asked now."""
        try:
            answer = httpx.get(f"{self.url}/health", timeout=5)
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:
            return False
        health: dict[str, Any] = answer.json()
        is_warm = not health.get("warmup_enabled") or health.get("warmup_completed")
        return bool(health.get("models_healthy") and is_warm)

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the models that can chat, by id, each with all that the server tells of it."""
        listed = [model.model_dump() for model in self.openai.models.list()]
        return {each["id"]: each for each in listed if "chat" in (each.get("tags") or [])}

    def ask(self, model: str, question: str) -> str:
        """Return the answer to *question*; print under which id, and how long the server took."""
        name = f"tier2-{uuid.uuid4()}"
        answer = self.openai.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=MAX_TOKENS,
            extra_headers={"X-Request-ID": name},
        )
        print(f"[{name}] {answer.headers.get('x-process-time')} s")
        return answer.parse().choices[0].message.content or ""

    def stream(self, model: str, question: str) -> str:
        """Return what came of a streamed answer, whole or not; an error in it is told."""
        name, text = f"tier2-{uuid.uuid4()}", ""
        finish_reason = None
        try:
            for chunk in self.openai.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=MAX_TOKENS,
                stream=True,
                extra_headers={"X-Request-ID": name},
            ):
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    finish_reason = choice.finish_reason or finish_reason
        except (openai.APIError, httpx.HTTPError) as error:
            print(f"[{name}] broke: {error}")
        else:
            print(f"[{name}] {finish_reason or 'cut off'}")
        return text


def main(url: str) -> None:
    """Live the loop once."""
    tier2 = Tier2(url)
    tier2.wait_until_ready()
    models = tier2.models()
    model, told = next(iter(models.items()))
    print(f"{model}: {told['family']}, {told['context_length']} tokens of context")
    for question in QUESTIONS:
        print(tier2.ask(model, question))
    for question in STREAMED:
        if not tier2.is_ready():
            tier2.wait_until_ready()
        print(tier2.stream(model, question))


if __name__ == "__main__":
    main(sys.argv[1])
