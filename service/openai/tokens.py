"""
`POST /v1/tokenize`, `/v1/detokenize` and `/v1/estimate`: prompts as the model sees them, nothing generated.

The first two are shaped as vLLM's, so that its clients find their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.errors import InvalidRequest, RequestTooLarge
from service.openai import chat, completions, models, request_fields
from service.protocol import GENERATING, Chat, Job, ModelCard, Prompt, Text, Tokenized, Tokens

# The tokenizer, which all requests share, is not kept busy for long with what no model could read.
MAX_BYTES = 256 * 1024  # taste: a second of the slowest tokenizer that was seen
MAX_BYTES_PER_CONTEXT_TOKEN = 16  # taste: some three times what the context holds of a text

# vLLM's switches that change the tokens, with the values that stand for what is done here anyway.
NOT_IMPLEMENTED_FOR_TEXTS: dict[str, tuple[Any, ...]] = {"add_special_tokens": (True,)}
NOT_IMPLEMENTED_FOR_CHATS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (False,),
    "chat_template": (),
}


def prompt(body: dict[str, Any], card: ModelCard) -> Prompt:
    """
    Return the text or the chat of *body*, which has passed the contract `tokenize-request`.

    Raises:
        UnsupportedParameter: the tokens are wanted in a way that is not implemented.
        UnsupportedModelType: it is a chat, and the model doesn't chat.
        InvalidRequest: it is both, or as `chat.parse`.
    """
    if _is_chat(body):
        if card.kind not in GENERATING:
            raise models.wrong_kind(card, param="messages")
        request_fields.refuse(body, NOT_IMPLEMENTED_FOR_CHATS)
        return chat.parse(body, card).jobs[0].prompt
    request_fields.refuse(body, NOT_IMPLEMENTED_FOR_TEXTS)
    return Text(body["prompt"])


def _is_chat(body: dict[str, Any]) -> bool:
    if "messages" in body and body.get("prompt") is not None:
        raise InvalidRequest("Either messages or a prompt can be given.", param="prompt")
    return "messages" in body


def check_size(prompt: Prompt, card: ModelCard) -> None:
    """
    See that a prompt which is only to be counted is none that no model could read.

    Raises:
        RequestTooLarge: it is far larger than the model's context.
    """
    limit = max(MAX_BYTES, card.context_length * MAX_BYTES_PER_CONTEXT_TOKEN)
    if not isinstance(prompt, Tokens) and len(msgspec.msgpack.encode(prompt)) > limit:
        param = "messages" if isinstance(prompt, Chat) else "prompt"
        raise RequestTooLarge(f"The prompt is over {limit} bytes.", param=param)


def token_list(card: ModelCard, found: Tokenized, *, with_texts: bool) -> dict[str, Any]:
    """Return the body that names the tokens that were *found*."""
    texts = [piece.decode("utf-8", "replace") for piece in found.pieces] if with_texts else None
    return {
        "object": "tokens",
        "model": card.id,
        "count": len(found.ids),
        "max_model_len": card.context_length,
        "tokens": found.ids,
        "token_strs": texts,
    }


def token_text(card: ModelCard, text: str) -> dict[str, Any]:
    """Return the body that tells the *text* of tokens."""
    return {"object": "text", "model": card.id, "prompt": text}


def planned(body: dict[str, Any], card: ModelCard) -> tuple[Job, ...]:
    """
    Return a job for each prompt of *body*, which has passed the contract `estimate-request`.

    Raises:
        InvalidRequest: it is both a chat and a completion, or whatever that would be refused with.
    """
    if _is_chat(body):
        return chat.parse(body, card).jobs[:1]
    asked = completions.parse(body)
    return asked.jobs[:: asked.n]


def estimate(card: ModelCard, max_tokens: int | None, lengths: Sequence[int]) -> dict[str, Any]:
    """
    Return the body that tells what a request would take.

    Args:
        card: the model's.
        max_tokens: most tokens that it wants in one answer; None: what the context has left.
        lengths: of its prompts, in tokens.
    """
    longest = max(lengths)
    left = max(0, card.context_length - longest)
    wanted = 1 if max_tokens is None else max_tokens
    return {
        "object": "estimate",
        "model": card.id,
        "prompt_tokens": sum(lengths),
        "max_completion_tokens": left if max_tokens is None else max_tokens,
        "context_length": card.context_length,
        "fits": longest + wanted <= card.context_length,
    }
