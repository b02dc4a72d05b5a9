"""`openai.images`: out of requests of each interface, into turns."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from msgspec.structs import replace

from service.anthropic import messages
from service.errors import InvalidRequest
from service.openai import chat, response_items
from service.openai.images import MAX_IMAGES, Images
from service.protocol import Chat, ModelCard

CARD = ModelCard("a", "qwen", "", 4096, 0, kind="multimodal")
BLIND = replace(CARD, kind="lm")
RED, BLUE = b"red", b"blue"


def url(file: bytes) -> str:
    """Return *file* as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def part(file: bytes) -> dict[str, Any]:
    """Return an image as chats have it."""
    return {"type": "image_url", "image_url": {"url": url(file), "detail": "low"}}


def block(file: bytes) -> dict[str, Any]:
    """Return an image as Anthropic has it."""
    data = base64.b64encode(file).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def prompt(content: object, card: ModelCard = CARD) -> Chat:
    """Return what a chat of one message becomes."""
    body = {"model": "a", "messages": [{"role": "user", "content": content}]}
    read = chat.parse(body, card).jobs[0].prompt
    assert isinstance(read, Chat)
    return read


def text(words: str) -> dict[str, Any]:
    """Return a part with *words*, as both have it."""
    return {"type": "text", "text": words}


def test_chat_keeps_the_order() -> None:
    """Each image stands where it stood among the texts; the files come in the same order."""
    read = prompt([text("left "), part(RED), text(" or "), part(BLUE), text("?")])

    assert read.images == (RED, BLUE)
    assert (read.turns[0].content or "").split(read.image_mark) == ["left ", " or ", "?"]


def test_mark_is_another_in_each_request() -> None:
    """Nobody can write it before it is drawn."""
    assert prompt([part(RED)]).image_mark != prompt([part(RED)]).image_mark


def test_messages_have_no_paragraph_around_an_image() -> None:
    """Blocks of text are paragraphs; an image stands in the text, in results of tools as well."""
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("seen:"), block(BLUE)]}
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    body = {
        "max_tokens": 1,
        "messages": [
            {"role": "user", "content": [text("one"), text("two"), block(RED), text("three")]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
    }
    read = messages.prompt(body, CARD)

    assert read.images == (RED, BLUE)
    assert (read.turns[0].content or "").split(read.image_mark) == ["one\n\ntwo", "three"]
    assert (read.turns[2].content or "").split(read.image_mark) == ["seen:", ""]


def test_responses_take_images() -> None:
    """In messages and in what functions gave."""
    images = Images(CARD)
    seen = {"type": "input_image", "image_url": url(RED)}
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, seen]},
        {"type": "function_call_output", "call_id": "c", "output": [seen]},
    ]
    turns = response_items.turns([], items, images)

    assert images.files == [RED, RED]
    assert [turn.content for turn in turns] == [f"a{images.mark}", images.mark]


def test_model_without_eyes_says_so() -> None:
    """A text model refuses the part by its type, on each interface."""
    with pytest.raises(InvalidRequest) as refused:
        prompt([text("a"), part(RED)], BLIND)
    assert (refused.value.param, refused.value.code) == (
        "messages.0.content.1.type",
        "unsupported_content",
    )
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": [block(RED)]}]}
    with pytest.raises(InvalidRequest) as refused:
        messages.prompt(body, BLIND)
    assert refused.value.param == "messages.0.content.0.type"


@pytest.mark.parametrize(
    "wrong",
    [
        "data:image/png;base64,%%%",
        "data:image/png;base64,",
        "data:image/png,abc",
        "data:text/plain;base64,YQ==",
        "file:///etc/hostname",
        "not a url",
    ],
)
def test_wrong_urls_are_named(wrong: str) -> None:
    """What is no image in base64 is refused where it stands."""
    with pytest.raises(InvalidRequest) as refused:
        prompt([{"type": "image_url", "image_url": {"url": wrong}}])

    assert refused.value.code == "invalid_image"
    assert refused.value.param == "messages.0.content.0.image_url"


def test_images_are_bounded() -> None:
    """So many may be in a request, and not one more."""
    assert len(prompt([part(RED)] * MAX_IMAGES).images) == MAX_IMAGES
    with pytest.raises(InvalidRequest) as refused:
        prompt([part(RED)] * (MAX_IMAGES + 1))
    assert refused.value.code == "too_many_images"
