"""Both ways of running, and the command line: each serves, and each ends with everything it started."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.web import descriptors
from tests.live import GUNICORN, MODULE, ROOT, UVICORN, clean_environment, is_alive, running

WAYS = {"module": MODULE, "uvicorn": UVICORN, "gunicorn": GUNICORN}
HELLO = {"model": "gemma", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_running_serves_and_ends_on_sigterm(way: str, tmp_path: Path) -> None:
    """
    It answers and streams; after SIGTERM a long stream gets an error event at our own deadline.

    It is gone within 5 s then, its engine included. Open connections that say nothing, or half a request, are
    nothing to wait for.
    """
    long_answer = HELLO | {"stream": True, "ignore_eos": True, "max_tokens": 8000}
    with running(tmp_path / "log", WAYS[way]) as server, server.client() as http:
        server.wait_until("/readyz", 200)
        answer = http.post("/v1/chat/completions", json=HELLO)
        stream = http.post("/v1/chat/completions", json=HELLO | {"stream": True})
        engine = server.engine_pid()
        host, port = server.url.removeprefix("http://").split(":")
        with (
            ExitStack() as stack,
            http.stream("POST", "/v1/chat/completions", json=long_answer) as response,
        ):
            for sent in (b"", b"GET /health HTTP/1.1\r\nHost:"):
                connection = socket.create_connection((host, int(port)))
                stack.enter_context(connection).sendall(sent)
            lines = response.iter_lines()
            next(lines)
            began_s = time.monotonic()
            server.process.terminate()
            events = [line for line in lines if line.startswith("data: ")]
            status = server.process.wait(15)
            lasted_s = time.monotonic() - began_s

        assert answer.status_code == 200, answer.text
        assert stream.text.endswith("data: [DONE]\n\n")
        assert '"shutting_down"' in events[-2]
        assert events[-1] == "data: [DONE]"
        # By its own command line, uvicorn ends by the signal that it was sent.
        assert status == (-signal.SIGTERM if way == "uvicorn" else 0)
        assert lasted_s < 5
        assert not is_alive(engine)
        assert "Traceback" not in server.log_text()


def test_engine_exits_by_itself_when_its_parent_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the API process no chance to tidy up; the engine sees its end and goes."""
    with running(tmp_path / "log") as server:
        server.wait_until("/readyz", 200)
        engine = server.engine_pid()
        server.end(signal.SIGKILL)
        end_s = time.monotonic() + 3
        while is_alive(engine) and time.monotonic() < end_s:
            time.sleep(0.01)

        assert not is_alive(engine)


# What a Mac gives a process unasked, for any system; the server is then started in this one's place.
AS_ON_A_MAC = """
import os, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("way", WAYS)
def test_more_connections_than_a_mac_gives_descriptors(way: str, tmp_path: Path) -> None:
    """Clients that come and stay are all answered: the server asks the system for more room."""
    descriptors.raise_limit()  # this process holds the other ends
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        running(tmp_path / "log", ("-c", AS_ON_A_MAC, *WAYS[way])) as server,
        ExitStack() as crowd,
    ):
        server.wait_until("/livez", 200)
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(400):
            client = crowd.enter_context(socket.create_connection((host, int(port)), timeout=10))
            client.sendall(request)
            assert client.recv(1024).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_setting_stops_the_start(way: str) -> None:
    """The process ends at once and says which option, which value, and what is allowed."""
    how = [word.format(port=1) for word in WAYS[way]]
    done = subprocess.run(
        [sys.executable, *how],
        cwd=ROOT,
        env=clean_environment({"QUEUE_SIZE": "many"}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode != 0
    assert "QUEUE_SIZE" in done.stderr
    assert "'many' is not in the range 0<=x<=100000" in done.stderr


@pytest.mark.parametrize(
    "way", [(*UVICORN, "--workers", "2"), (*GUNICORN, "-w", "2")], ids=["uvicorn", "gunicorn"]
)
def test_second_worker_is_refused(way: tuple[str, ...], tmp_path: Path) -> None:
    """It would load the model again; the whole server ends, and a sentence says why."""
    with running(tmp_path / "log", way) as server:
        status = server.process.wait(60)
        told = server.log_text()

    assert "This server has one worker, and 2 were asked for" in told
    assert "service/" not in told  # no traceback of ours; gunicorn prints one of its own
    assert (
        "uvicorn" in way or status
    )  # uvicorn's parent process ends with 0 whatever its workers did
