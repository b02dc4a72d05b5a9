"""
`POST /v1/completions`: the body into jobs, deltas into chunks or one completion.

Pure translation, as `chat` is; here a prompt is continued as it stands, and several may come at once.
"""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.errors import InvalidRequest, UnsupportedParameter
from service.openai import request_fields
from service.openai.usage import Usage
from service.protocol import Delta, Job, Text, TokenLogprob, Tokens

MAX_ANSWERS = 16
DEFAULT_MAX_TOKENS = 16

# Documented fields that are not implemented, with the values at which they change nothing.
NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {"grammar": ("",), "suffix": ("",)}


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """
    What a completion request asks for.

    Attributes:
        jobs: one for each answer that it wants, those to the same prompt side by side.
        n: how many answers each prompt gets.
        priority: its turn in the queue; smaller is earlier.
        is_stream: answer as server-sent events.
        include_usage: end the stream with a chunk that counts tokens.
    """

    jobs: tuple[Job, ...]
    n: int
    priority: int
    is_stream: bool
    include_usage: bool


def parse(body: dict[str, Any]) -> CompletionRequest:
    """
    Read *body*, which has passed the contract `completion-request`.

    Raises:
        UnsupportedParameter: a documented field that is not implemented would change the answer.
        InvalidRequest: over MAX_ANSWERS, no token to generate and nothing to repeat either, or a form
            that can't be.
    """
    request_fields.refuse(body, NOT_IMPLEMENTED)
    n = request_fields.whole(body.get("n")) or 1
    if body.get("best_of") not in {None, n}:
        raise UnsupportedParameter("best_of is not supported but as n.", param="best_of")
    prompts = _prompts(body["prompt"])
    if len(prompts) * n > MAX_ANSWERS:
        raise InvalidRequest(f"Prompts times n are over {MAX_ANSWERS}.", param="n")
    asked = body.get("max_tokens")
    max_tokens = DEFAULT_MAX_TOKENS if asked is None else request_fields.limit(asked)
    echo = bool(body.get("echo"))
    if max_tokens == 0 and not echo:
        raise InvalidRequest("max_tokens may be 0 only with echo.", param="max_tokens")
    sampling, stop, constraint = (
        request_fields.sampling(body),
        request_fields.stops(body),
        request_fields.constraint(body),
    )
    jobs = [
        Job(
            prompt=prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            min_tokens=request_fields.min_tokens(body, max_tokens),
            stop=stop,
            ignore_eos=bool(body.get("ignore_eos")),
            top_logprobs=request_fields.whole(body.get("logprobs")),
            constraint=constraint,
            echo=echo,
        )
        for prompt in prompts
    ]
    return CompletionRequest(
        jobs=tuple(each for job in jobs for each in request_fields.several(job, n)),
        n=n,
        priority=request_fields.priority(body),
        is_stream=bool(body.get("stream")),
        include_usage=request_fields.include_usage(body),
    )


def _prompts(given: str | list[Any]) -> list[Text | Tokens]:
    """Return each prompt: of a text or token ids, and of a list of either."""
    if isinstance(given, str):
        return [Text(given)]
    if isinstance(given[0], str):
        return [Text(text) for text in given]
    lists = given if isinstance(given[0], list) else [given]
    return [Tokens(tuple(map(int, ids))) for ids in lists]


def _new_id() -> str:
    return f"cmpl-{secrets.token_hex(12)}"


@dataclass(slots=True)
class CompletionAnswer:
    """
    One request's answers on their way out, whole or in chunks.

    Attributes:
        model: id of the model that answers.
        usage: what is counted, and brought up to date as deltas come by.
        with_logprobs: each choice carries log-probabilities.
        include_usage: each chunk carries `usage`, null until the last.
    """

    model: str
    usage: Usage
    with_logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=_new_id)
    created: int = field(default_factory=lambda: int(time.time()))
    _places: dict[int, _Places] = field(default_factory=dict)

    def completion(self, answers: Sequence[Sequence[Delta]]) -> dict[str, Any]:
        """Return the whole answer as one body; *answers* are each choice's deltas, all of them."""
        for i, deltas in enumerate(answers):
            self.usage.add(i, deltas[-1])
        choices = [
            self._choice(
                i,
                "".join(delta.text for delta in deltas),
                [each for delta in deltas for each in delta.logprobs],
                deltas[-1].finish_reason,
            )
            for i, deltas in enumerate(answers)
        ]
        return self._head() | {"choices": choices} | self.usage.as_body()

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the chunk for *delta*; the very last one of a stream tells the times, too."""
        choice = self._choice(index, delta.text, delta.logprobs, delta.finish_reason)
        chunk = self._head() | {"choices": [choice]}
        if self.include_usage:
            chunk["usage"] = None
        if delta.finish_reason is None:
            return chunk
        self.usage.add(index, delta)
        is_last = self.usage.is_complete and not self.include_usage
        return chunk | {"timings": self.usage.timings()} if is_last else chunk

    def closing(self) -> dict[str, Any]:
        """Return the chunk that counts tokens and has no choice; only for `include_usage`."""
        return self._head() | {"choices": []} | self.usage.as_body()

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(
        self, index: int, text: str, tokens: Sequence[TokenLogprob], finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "finish_reason": finish_reason,
            "logprobs": self._logprobs(index, text, tokens) if self.with_logprobs else None,
        }

    def _logprobs(self, index: int, text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        places = self._places.setdefault(index, _Places())
        places.text += text
        return {
            "tokens": [_spelled(each.chosen.piece) for each in tokens],
            "token_logprobs": [each.chosen.logprob for each in tokens],
            "top_logprobs": [_likeliest(each) for each in tokens],
            "text_offset": [places.next(each.chosen.piece) for each in tokens],
        }


class _Places:
    """
    Where in the text of one choice its tokens begin.

    A token that the text leaves out, such as one that ends the answer, takes no room in it.

    Attributes:
        text: all of it that is out, which is at least the beginning of each token that is.
    """

    def __init__(self) -> None:
        self.text = ""
        self._place = 0
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, piece: bytes) -> int:
        """Return where the next token begins, *piece* being its text."""
        place = self._place
        letters = self._letters.decode(piece)
        if not place and not self.text.startswith(letters):
            letters = letters.removeprefix(" ")  # some models begin every text with a space
        out = self.text[place : place + len(letters)]
        if out and letters.startswith(out):
            self._place += len(letters)
        own = piece.decode("utf-8", "replace")
        if own and out == letters and letters.endswith(own):
            place += len(letters) - len(own)  # before it stands what is lost of tokens before
        return place


def _spelled(piece: bytes) -> str:
    """Return a token's text; what is no whole characters is spelled in OpenAI's way."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _likeliest(token: TokenLogprob) -> dict[str, float] | None:
    """Return the likeliest tokens and the one that was chosen; None where nothing is known."""
    if token.chosen.logprob is None:
        return None
    found: dict[str, float] = {}
    for each in (*token.top, token.chosen):
        if each.logprob is not None:
            found.setdefault(_spelled(each.piece), each.logprob)
    return found
