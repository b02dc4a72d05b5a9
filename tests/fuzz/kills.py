"""
The engine is killed again and again while clients read from it: `python -m tests.fuzz.kills --times 100`.

Each client has to hear the answer that it would hear without, or the beginning of it and an error; and it has
to hear the end of one or the other in time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import click
import httpx

from tests.fuzz.accounts import left_over
from tests.fuzz.asking import CHAT, READY_S, chat
from tests.fuzz.record import Row, tell
from tests.live import UVICORN, LiveServer, running

N_TOKENS = 120
PATIENCE_S = 180.0  # longer, and a client hangs
STEADY_S = 11.0  # an engine that lived for so long may die again without being given up
QUESTIONS = ("Hello", "Count to ten.", "What is the sun?", "Tell me a story.")
ERRORS = {"engine_died", "model_not_ready"}


class Client:
    """
    Asks the same all the time.

    Args:
        url: of the server.
        question: its message.
        is_streamed: how it wants its answers.

    Attributes:
        seen: how often an answer was right and whole, ended by an error, or wrong.
    """

    def __init__(self, url: str, question: str, *, is_streamed: bool) -> None:
        self.seen: Counter[str] = Counter()
        self._url = url
        self._body = chat(question, max_tokens=N_TOKENS, ignore_eos=True, stream=is_streamed)
        self._expected = ""

    def learn(self) -> None:
        """Ask while nothing is wrong."""
        text, error = self._ask()
        assert text
        assert error is None
        self._expected = text

    def keep_asking(self, is_over: threading.Event) -> None:
        """Ask until *is_over*, and note what comes."""
        while not is_over.is_set():
            try:
                text, error = self._ask()
            except httpx.HTTPError as failure:
                self._note_wrong(f"{type(failure).__name__}: {failure}")
                continue
            if error is None and text == self._expected:
                self.seen["right"] += 1
            elif error in ERRORS and self._expected.startswith(text):
                self.seen["error"] += 1
                is_over.wait(0.05)
            else:
                self._note_wrong(f"{error} after {text!r} instead of {self._expected!r}")

    def _note_wrong(self, what: str) -> None:
        self.seen["wrong"] += 1
        click.echo(f"wrong: {what[:500]}")

    def _ask(self) -> tuple[str, str | None]:
        """Return the text, and the code of the error that ended it."""
        answer = httpx.post(self._url + CHAT, json=self._body, timeout=PATIENCE_S)
        if answer.status_code != 200:
            return "", answer.json()["error"]["code"]
        if not self._body["stream"]:
            return answer.json()["choices"][0]["message"]["content"], None
        events = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: ")]
        if events[-1] != "[DONE]":
            return "", "no end"
        told = [json.loads(event) for event in events[:-1]]
        error = next((each["error"]["code"] for each in told if "error" in each), None)
        deltas = [each["choices"][0]["delta"] for each in told if each.get("choices")]
        return "".join(delta.get("content") or "" for delta in deltas), error


def kill_and_wait(server: LiveServer, chance: random.Random) -> None:
    """Kill the engine at some moment, and wait for the next one."""
    time.sleep(chance.uniform(0, 0.5))
    os.kill(server.engine_pid(), signal.SIGKILL)
    server.wait_until("/health", 503, 5)
    server.wait_until("/readyz", 200, READY_S)


@click.command()
@click.option("--times", default=100, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder that keeps the record.")
def main(times: int, seed: int, out: Path | None) -> None:
    """Kill the engine so many times; fail if a client hears anything wrong, or nothing."""
    chance = random.Random(seed)
    is_over = threading.Event()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "log", UVICORN) as server:
        server.wait_until("/readyz", 200, READY_S)
        clients = [
            Client(server.url, question, is_streamed=is_streamed)
            for question in QUESTIONS
            for is_streamed in (True, False)
        ]
        for client in clients:
            client.learn()
        threads = [threading.Thread(target=each.keep_asking, args=(is_over,)) for each in clients]
        for thread in threads:
            thread.start()
        for n in range(times):
            if n % 2 == 0:  # never three quick deaths in a row
                time.sleep(STEADY_S)
            kill_and_wait(server, chance)
            if n % 10 == 9:
                click.echo(f"{n + 1} of {times}: {sum((c.seen for c in clients), Counter())}")
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        n_hung = sum(thread.is_alive() for thread in threads)
        wrong = left_over(server)
    seen = sum((client.seen for client in clients), Counter[str]())
    row = Row(
        what=f"The engine is killed {times} times under {len(clients)} clients",
        goal="no wrong answer, no client that hangs",
        seen=f"{seen['right']:,} answers right, {seen['error']:,} ended by an error, "
        f"{seen['wrong']} wrong, {n_hung} clients hung" + f"; {wrong}" * bool(wrong),
        is_met=not (seen["wrong"] or n_hung or wrong),
        command=f"python -m tests.fuzz.kills --times {times}",
    )
    tell(row, out)
    sys.exit(not row.is_met)


if __name__ == "__main__":
    main()
