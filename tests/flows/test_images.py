"""Chats with images on every interface, where the extra that looks at them is installed."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

if importlib.util.find_spec("mlx_vlm") is None:
    pytest.skip("the extra vision is not installed", allow_module_level=True)

from PIL import Image

from tests.live import LiveServer, free_port, running
from tests.models.small_vision import make

CHATS = "/v1/chat/completions"


def picture(color: str, side: int = 64) -> bytes:
    """Return a square image of one color, as a PNG has it."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "PNG")
    return file.getvalue()


def url(color: str, side: int = 64) -> str:
    """Return the same as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture(color, side)).decode()}"


def seen(address: str) -> dict[str, Any]:
    """Return an image as chats have it."""
    return {"type": "image_url", "image_url": {"url": address}}


def chat(*parts: str | dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return a chat of one turn of *parts*."""
    content = [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": 8, "temperature": 0} | options


@pytest.fixture(scope="module")
def picture_port() -> int:
    """Return where `pictures` may be asked for."""
    return free_port()


@pytest.fixture(scope="module")
def sighted(tmp_path_factory: pytest.TempPathFactory, picture_port: int) -> Iterator[LiveServer]:
    """Return a server whose model takes images."""
    folder = tmp_path_factory.mktemp("sighted")
    make("qwen2_vl", folder / "seer")
    hosts = f"127.0.0.1:{picture_port}"
    with running(
        folder / "log",
        MODEL_PATH=str(folder / "seer"),
        IMAGE_HOSTS=hosts,
        MAX_IMAGE_PIXELS="1000000",
    ) as server:
        server.wait_until("/readyz", 200)
        yield server


@pytest.fixture
def http(sighted: LiveServer) -> Iterator[httpx.Client]:
    """Return a client for it."""
    with sighted.client() as client:
        yield client


def answered(http: httpx.Client, body: dict[str, Any], path: str = CHATS) -> dict[str, Any]:
    """Return the answer to *body*, which must be one."""
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Return the error of a request that must be refused for what it says."""
    answer = http.post(CHATS, json=body)
    assert answer.status_code == 400, answer.text
    found: dict[str, Any] = answer.json()["error"]
    return found


def test_model_says_that_it_sees(http: httpx.Client) -> None:
    """Its card has the tag."""
    (card,) = http.get("/v1/models").json()["data"]

    assert "images" in card["tags"]
    assert "takes images" in card["description"]


def test_image_counts_and_moves_the_answer(http: httpx.Client) -> None:
    """Its tokens are in the usage, and in the estimate; another color is another answer."""
    red, blue = (answered(http, chat(seen(url(color)), "?")) for color in ("red", "blue"))
    without = answered(http, chat("?"))
    estimate = answered(http, chat(seen(url("red")), "?"), "/v1/estimate")

    assert red["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]
    assert estimate["prompt_tokens"] == red["usage"]["prompt_tokens"]
    assert red["choices"][0]["message"] != blue["choices"][0]["message"]


def test_second_question_finds_the_image_read(http: httpx.Client) -> None:
    """A chat that goes on about an image reads only what is new."""
    body = chat(seen(url("teal", 256)), "What is this?")
    first = answered(http, body)
    body["messages"] += [first["choices"][0]["message"], {"role": "user", "content": "Sure?"}]
    second = answered(http, body)
    n_read = second["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert n_read > first["usage"]["prompt_tokens"] / 2


def test_stream_is_the_whole(http: httpx.Client) -> None:
    """The same text comes in pieces."""
    body = chat("Look: ", seen(url("red")), " and ", seen(url("blue")))
    whole = answered(http, body)["choices"][0]["message"]["content"]
    lines = http.post(CHATS, json=body | {"stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks) == whole


def test_answer_keeps_its_form(http: httpx.Client) -> None:
    """A schema holds beside an image as it does without."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    body = chat(seen(url("red")), "How many?", response_format=form, max_tokens=40)
    content = answered(http, body)["choices"][0]["message"]["content"]

    assert json.loads(content)["n"] in (1, 2)


def test_all_interfaces_see_the_same(http: httpx.Client) -> None:
    """The prompt has as many tokens however the image came."""
    data = base64.b64encode(picture("red")).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    text = "What is it?"
    block = [{"type": "image", "source": source}, {"type": "text", "text": text}]
    message = {"messages": [{"role": "user", "content": block}], "max_tokens": 4}
    item = [
        {"type": "input_image", "image_url": url("red"), "detail": "auto"},
        {"type": "input_text", "text": text},
    ]
    response = {"input": [{"role": "user", "content": item}], "max_output_tokens": 16}
    of_message = answered(http, message, "/v1/messages")["usage"]
    counts = [
        answered(http, chat(seen(url("red")), text))["usage"]["prompt_tokens"],
        of_message["input_tokens"] + of_message["cache_read_input_tokens"],
        answered(http, response, "/v1/responses")["usage"]["input_tokens"],
    ]

    assert len(set(counts)) == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("data:image/png;base64,aGVsbG8=", "no image of a kind"),
        (url("red")[:-40], "can't be read"),
        (url("red", 1200), "pixels"),
        ("data:image/png;base64,!", "no base64"),
    ],
)
def test_what_is_no_image_costs_its_request(http: httpx.Client, address: str, reason: str) -> None:
    """It is named, and the next request is answered."""
    error = refusal(http, chat(seen(address), "?"))

    assert error["code"] == "invalid_image"
    assert reason in error["message"]
    answered(http, chat(seen(url("red")), "?"))


@contextmanager
def pictures(port: int, body: bytes, status: int = 200, **headers: str) -> Iterator[list[str]]:
    """Serve *body* at any path of *port*; yield the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield asked
        server.shutdown()


def test_named_host_is_asked(http: httpx.Client, picture_port: int) -> None:
    """Where the settings name it, its images are as good as those that are sent."""
    with pictures(picture_port, picture("red")) as asked:
        fetched = answered(http, chat(seen(f"http://127.0.0.1:{picture_port}/red.png"), "?"))

    assert asked == ["/red.png"]
    assert fetched["choices"] == answered(http, chat(seen(url("red")), "?"))["choices"]


def test_other_hosts_are_not_asked(http: httpx.Client) -> None:
    """Not even to see whether they are there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.3)
        error = refusal(http, chat(seen(f"http://127.0.0.1:{other.getsockname()[1]}/a.png"), "?"))
        with pytest.raises(TimeoutError):
            other.accept()

    assert error["code"] == "invalid_image"
    assert "IMAGE_HOSTS" in error["message"]


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [(404, {}, "404"), (302, {"Location": "http://127.0.0.1:9/"}, "302")],
)
def test_what_a_host_does_not_give_is_told(
    http: httpx.Client, picture_port: int, status: int, headers: dict[str, str], reason: str
) -> None:
    """A redirect is followed nowhere."""
    with pictures(picture_port, b"", status, **headers):
        error = refusal(http, chat(seen(f"http://127.0.0.1:{picture_port}/a.png"), "?"))

    assert error["code"] == "invalid_image"
    assert reason in error["message"]


def test_host_gives_no_more_than_a_body_may_have(http: httpx.Client, picture_port: int) -> None:
    """What is longer is broken off."""
    with pictures(picture_port, b"0" * 20_000_000):
        error = refusal(http, chat(seen(f"http://127.0.0.1:{picture_port}/a.png"), "?"))

    assert "bytes" in error["message"]


def test_host_that_is_gone_is_told(http: httpx.Client, picture_port: int) -> None:
    """Nobody listens there any more."""
    error = refusal(http, chat(seen(f"http://127.0.0.1:{picture_port}/a.png"), "?"))

    assert error["code"] == "invalid_image"
