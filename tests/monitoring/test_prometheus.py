"""A real Prometheus, which scrapes a real server and is asked what the dashboard asks."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.web.keys import hashed
from tests.flows.chatting import CHAT
from tests.live import PLAIN, ROOT, LiveServer, free_port, running
from tests.monitoring.queries import ALERTS, of_panels, of_rules

CASES = ROOT / "tests" / "monitoring" / "alerts.test.yml"
RATE = "[20s]"  # what Grafana makes of $__rate_interval, for one scrape a second
KEY = '[[key]]\nname = "{}"\nsha256 = "{}"\nrequests_per_minute = {}\n'
LIMITS = {"anna": 1000, "ben": 1}
ANNA, BEN = ({"Authorization": f"Bearer {name}"} for name in LIMITS)


def names(queries: list[tuple[str, str]]) -> list[str]:
    """Return how the cases are called."""
    return [where for where, _ in queries]


def program(name: str) -> str:
    """Return where a program of Prometheus is; without it nothing here runs."""
    found = shutil.which(name, path=os.environ.get("PROMETHEUS")) or shutil.which(name)
    if found is None:
        pytest.skip(
            f"{name} is not installed, and PROMETHEUS names no folder with it",
            allow_module_level=True,
        )
    return found


PROMTOOL, PROMETHEUS = program("promtool"), program("prometheus")


def promtool(*words: str, text: str | None = None) -> str:
    """Return what promtool says; it has to be content."""
    ended = subprocess.run(
        [PROMTOOL, *words], input=text, capture_output=True, text=True, timeout=60
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Return a server with two keys that have names, and one of them a small limit."""
    folder = tmp_path_factory.mktemp("watched")
    keys = [KEY.format(name, hashed(name.encode()), limit) for name, limit in LIMITS.items()]
    (folder / "keys.toml").write_text("".join(keys))
    with running(
        folder / "log", API_KEYS_FILE=str(folder / "keys.toml"), MAX_CONCURRENCY="2"
    ) as server:
        server.wait_until("/readyz", 200)
        yield server


@pytest.fixture(scope="module")
def prometheus(
    live: LiveServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Return a client of a Prometheus that scrapes the server once a second, and has our rules."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{ALERTS}]\n"
        "scrape_configs:\n"
        "  - job_name: tier3a\n"
        "    authorization: {credentials: anna}\n"
        f"    static_configs: [{{targets: ['{live.url.removeprefix('http://')}']}}]\n"
    )
    promtool("check", "config", str(folder / "prometheus.yml"))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=10, verify=PLAIN) as client:
            until_up(client, folder / "log")
            yield client
    finally:
        process.terminate()
        process.wait(10)


def until_up(client: httpx.Client, log: Path) -> None:
    """Wait until Prometheus has seen the server."""
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        try:
            if asked(client, 'up{job="tier3a"} == 1'):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text("utf-8"))


def asked(client: httpx.Client, query: str) -> list[float]:
    """Return the values that a query has now; it must be one that Prometheus understands."""
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert "success" == answer["status"], f"{query}: {answer}"
    return [float(one["value"][1]) for one in answer["data"]["result"]]


def keep_busy(live: LiveServer, is_over: threading.Event) -> None:
    """Ask for one thing and another, so that everything which is measured happens."""
    again = "one two three four five six seven eight nine ten " * 6
    with live.client() as http:
        while not is_over.is_set():
            body = {"messages": [{"role": "user", "content": again}], "max_tokens": 200}
            for who in (ANNA, BEN):
                how = {"ignore_eos": True, "temperature": 0}
                http.post(CHAT, json=body | how, headers=who)
            is_over.wait(0.3)


def lose_a_stream(live: LiveServer) -> None:
    """Have the engine end in the middle of an answer."""
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4000}
    with (
        live.client(headers=ANNA) as http,
        http.stream("POST", CHAT, json=body | {"stream": True, "ignore_eos": True}) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        os.kill(live.engine_pid(), signal.SIGKILL)
        assert any("engine_died" in line for line in lines)
        assert 503 == http.post(CHAT, json=body).status_code
    live.wait_until("/readyz", 200)


@pytest.fixture(scope="module")
def busy(live: LiveServer, prometheus: httpx.Client) -> Iterator[httpx.Client]:
    """Return Prometheus while the server is busy, and after all has been seen for a while."""
    lose_a_stream(live)
    is_over = threading.Event()
    asking = threading.Thread(target=keep_busy, args=(live, is_over))
    asking.start()
    time.sleep(15)  # what is counted needs some scrapes to have a rate
    try:
        yield prometheus
    finally:
        is_over.set()
        asking.join()


def test_rules_are_right() -> None:
    """There is nothing wrong in them by promtool, their templates included."""
    assert "SUCCESS: 12 rules found" in promtool("check", "rules", str(ALERTS))


def test_rules_fire_when_they_should() -> None:
    """And only then."""
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


def test_page_is_as_prometheus_wants_it(live: LiveServer) -> None:
    """Names, units and help texts: promtool has nothing to say."""
    with live.client(headers=ANNA) as http:
        http.post(CHAT, json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4})
        page = http.get("/metrics").text

    assert "" == promtool("check", "metrics", text=page)


@pytest.mark.parametrize(("panel", "query"), of_panels(), ids=names(of_panels()))
def test_query_of_the_dashboard_has_values(busy: httpx.Client, panel: str, query: str) -> None:
    """It is understood, and something comes back that is a number."""
    replaced = query.replace("[$__rate_interval]", RATE).replace("$model", ".*")
    assert "$" not in replaced
    end_s = time.monotonic() + 20
    while not any(map(math.isfinite, values := asked(busy, replaced))):
        assert time.monotonic() < end_s, f"{panel}: {replaced} has {values}"
        time.sleep(0.5)


@pytest.mark.parametrize(("alert", "query"), of_rules(), ids=names(of_rules()))
def test_query_of_a_rule_is_evaluated(busy: httpx.Client, alert: str, query: str) -> None:
    """Over real metrics without its threshold it has values, so that silence means that all is well."""
    compared = re.fullmatch(r"(.*?)\s*(?:==|>) [\d.]+\s*", query, re.DOTALL)
    assert compared is not None
    if (
        alert == "Tier3aErrors" or alert == "Tier3aRefuses"
    ):  # that have no such answers, have no share
        asked(busy, compared[1])
        return
    assert asked(busy, compared[1]), f"{alert}: {compared[1]}"


def test_no_rule_is_broken(busy: httpx.Client) -> None:
    """Prometheus evaluates all of them without an error."""
    groups = busy.get("/api/v1/rules").json()["data"]["groups"]

    assert ["ok"] * 12 == [rule["health"] for group in groups for rule in group["rules"]]
