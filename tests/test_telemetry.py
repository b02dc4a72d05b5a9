"""Log lines have one form, and carry the id of the request they were written for."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from service.telemetry import JsonFormatter, LineFormatter, Metrics, configure_logging, request_id

LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| %s"


@pytest.fixture
def service_logger() -> Iterator[logging.Logger]:
    """The logger `service`, put back afterwards as it was."""
    names = ("service", "uvicorn", "gunicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    access = logging.getLogger("uvicorn.access")
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    was_disabled = access.disabled
    yield loggers[0]
    access.disabled = was_disabled
    for each, (handlers, level, propagates) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagates
        each.setLevel(level)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a logger of our format writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("telemetry-under-test")
    logger.propagate = False
    logger.setLevel("DEBUG")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def log(text: str, *values: object) -> None:
    """Write one line."""
    logging.getLogger("telemetry-under-test").info(text, *values)


def test_line_outside_a_request(written: io.StringIO) -> None:
    """A line reads time, level, message, and nothing more."""
    log("Hello %d", 5)

    assert re.fullmatch(LINE % r"INFO \| Hello 5\n", written.getvalue())


def test_line_within_a_request(written: io.StringIO) -> None:
    """Within a request its id ends the line, whoever writes it."""
    token = request_id.set("abc-1")
    log("Hello")
    request_id.reset(token)

    assert re.fullmatch(LINE % r"INFO \| Hello \[request_id=abc-1\]\n", written.getvalue())


def test_line_with_a_traceback(written: io.StringIO) -> None:
    """The id stands at the end of the message, the traceback below it."""
    token = request_id.set("abc-1")
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("telemetry-under-test").exception("It broke")
    request_id.reset(token)
    first, *rest = written.getvalue().splitlines()

    assert first.endswith("| ERROR | It broke [request_id=abc-1]")
    assert "ValueError: oops" == rest[-1]


def test_lines_of_concurrent_requests(written: io.StringIO) -> None:
    """Each task writes under its own id, also in the tasks that it starts."""

    async def inner(name: str) -> None:
        await asyncio.sleep(0)
        log("inner of %s", name)

    async def one(name: str) -> None:
        request_id.set(name)
        await asyncio.sleep(0)
        await asyncio.create_task(inner(name))

    async def both() -> None:
        await asyncio.gather(one("a"), one("b"))
        log("outside")

    asyncio.run(both())
    messages = [line.partition("INFO | ")[2] for line in written.getvalue().splitlines()]

    assert ["inner of a [request_id=a]", "inner of b [request_id=b]", "outside"] == messages


def test_logging_when_configured_twice(
    service_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often it is set up, a line is written once, from the level on that was set last."""
    configure_logging("DEBUG")
    configure_logging("WARNING")
    logging.getLogger("service.somewhere").info("quiet")
    logging.getLogger("service.somewhere").warning("loud")
    captured = capsys.readouterr()

    assert 1 == captured.err.count("loud")
    assert "quiet" not in captured.err
    assert "" == captured.out


def test_access_log_of_the_server_is_silent(service_logger: logging.Logger) -> None:
    """Requests are told by our own pair of lines, not a third time by the server."""
    configure_logging("INFO")

    assert logging.getLogger("uvicorn.access").disabled


def test_metrics_of_two_apps() -> None:
    """Each app counts for itself."""
    first, second = Metrics(), Metrics()
    first.requests_started.inc()

    assert 1 == first.registry.get_sample_value("tier3a_requests_started_total")
    assert 0 == second.registry.get_sample_value("tier3a_requests_started_total")


def test_metrics_in_text() -> None:
    """The page holds every metric under a name that begins with the service's."""
    metrics = Metrics()
    metrics.requests.labels("GET", "/health", "", 200).inc()
    text = metrics.exposition().decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))

    told = 'tier3a_requests_total{method="GET",model="",route="/health",status="200"} 1.0'
    assert told in text
    assert "_created" not in text
    assert all(name.startswith("tier3a_") for name in names)
    assert {"tier3a_build_info", "tier3a_prompt_tokens_total"} <= names


def test_line_as_json(written: io.StringIO) -> None:
    """Each line is an object, with the request's id and the traceback where there is one."""
    logging.getLogger("telemetry-under-test").handlers[0].setFormatter(JsonFormatter())
    token = request_id.set("abc-1")
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("telemetry-under-test").exception("It %s", "broke")
    request_id.reset(token)
    log("Hello")
    broke, hello = map(json.loads, written.getvalue().splitlines())

    assert ("ERROR", "It broke", "abc-1") == (broke["level"], broke["message"], broke["request_id"])
    assert "ValueError: oops" in broke["traceback"]
    assert {"time", "level", "logger", "message"} == hello.keys()


def test_servers_own_lines_have_the_same_form(service_logger: logging.Logger) -> None:
    """What uvicorn and gunicorn say goes the same way as what we say."""
    configure_logging("INFO", "json")

    for name in ("uvicorn", "gunicorn.error"):
        assert service_logger.handlers == logging.getLogger(name).handlers
