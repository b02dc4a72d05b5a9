"""
From a chat to token ids, and from token ids to the text of an answer.

`Prompter` runs on the text worker, `Answer` on the MLX thread; both use the model's own tokenizer.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError
from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.protocol import Job, ToolCall, Turn

Clean = Callable[[str], str]


class RefusedPrompt(Exception):
    """The chat cannot become a prompt for this model, by the caller's fault."""

    def __init__(self, message: str, *, param: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Prompter:
    """
    Turns chats into prompts.

    Args:
        tokenizer: the model's own, with its chat template.
        context_length: longest prompt and answer together, in tokens.
        n_logits: the logit width; no token id at or above it may reach the model.
    """

    def __init__(self, tokenizer: TokenizerWrapper, context_length: int, n_logits: int) -> None:
        # A copy: encoding switches options inside, while the MLX thread decodes with the original.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._context_length = context_length
        self._n_logits = n_logits
        self._longest_token = max(map(len, tokenizer.get_vocab()))  # in characters
        specials = sorted(_special_tokens(tokenizer).values(), key=len, reverse=True)
        self._mark = secrets.token_hex(8)  # nobody outside ever sees it
        self._marked = re.compile(rf"{self._mark}(\d+)\.")
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    def prompt(self, job: Job) -> list[int]:
        """
        Return the token ids of *job*'s chat, 1 <= n < context length.

        Raises:
            RefusedPrompt: the model has no chat template, its template refuses these turns, or the
                prompt leaves no room for an answer.
        """
        if not self._tokenizer.has_chat_template:
            raise RefusedPrompt(
                "This model has no chat template.", param="messages", code="chat_not_supported"
            )
        ids = self._encode_chat(job)
        if len(ids) >= self._context_length:
            raise self._overflow(f"{len(ids)} or more")
        if not ids or not 0 <= min(ids) <= max(ids) < self._n_logits:
            raise RefusedPrompt(
                "The prompt holds a token that the model does not have.",
                param="messages",
                code="invalid_prompt",
            )
        return ids

    def _overflow(self, how_many: str) -> RefusedPrompt:
        return RefusedPrompt(
            f"The prompt has {how_many} tokens; the model's context holds {self._context_length}, "
            "prompt and answer together.",
            param="messages",
            code="context_length_exceeded",
        )

    def _encode_chat(self, job: Job) -> list[int]:
        """Render and encode; a special token spelled out in a message stays the text it is."""
        places: dict[str, int] = {}

        def hide(match: re.Match[str]) -> str:
            return f"{self._mark}{places.setdefault(match.group(), len(places))}."

        def clean(text: str) -> str:
            return self._special.sub(hide, text)

        rendered = self._render([_as_dict(turn, clean) for turn in job.turns])
        if len(rendered) > self._context_length * self._longest_token:
            raise self._overflow("far more")
        literal = [self._encode(text, split_special_tokens=True) for text in places]
        ids: list[int] = []
        for i, piece in enumerate(self._marked.split(rendered)):
            ids += self._encode(piece) if i % 2 == 0 else literal[int(piece)]
            if len(ids) >= self._context_length:
                break
        return ids

    def _render(self, turns: list[dict[str, Any]]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=True
                )
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise RefusedPrompt(
                f"The model's chat template refuses these messages: {str(error)[:200]}",
                param="messages",
                code="template_refused",
            ) from error

    def _encode(self, text: str, **options: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, **options))


def _special_tokens(tokenizer: TokenizerWrapper) -> dict[int, str]:
    """Return the tokens that are signs to the model and no text, by id."""
    return {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}


def _markers(tokenizer: TokenizerWrapper) -> set[int]:
    """Return the special tokens that set tool calls and reasoning apart; whoever reads those needs them."""
    texts = {
        tokenizer.tool_call_start,
        tokenizer.tool_call_end,
        tokenizer.think_start,
        tokenizer.think_end,
    }
    return {i for i, text in _special_tokens(tokenizer).items() if text in texts}


def _as_dict(turn: Turn, clean: Clean) -> dict[str, Any]:
    """Return *turn* as chat templates want it: plain dictionaries, keys left out where nothing is."""
    found: dict[str, Any] = {
        "role": turn.role,
        "content": None if turn.content is None else clean(turn.content),
    }
    if turn.name is not None:
        found["name"] = clean(turn.name)
    if turn.tool_call_id is not None:
        found["tool_call_id"] = clean(turn.tool_call_id)
    if turn.tool_calls:
        found["tool_calls"] = [_call_as_dict(call, clean) for call in turn.tool_calls]
    return found


def _call_as_dict(call: ToolCall, clean: Clean) -> dict[str, Any]:
    arguments = _each_text(json.loads(call.arguments), clean)
    function = {"name": clean(call.name), "arguments": arguments}
    return {"id": clean(call.id), "type": "function", "function": function}


def _each_text(value: Any, clean: Clean) -> Any:
    """Return *value*, decoded JSON, with every text in it cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_each_text(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(key): _each_text(item, clean) for key, item in value.items()}
    return value


class Answer:
    """
    The text of one answer as its tokens come.

    Text that may be the start of a stop text is held back until it is known not to be one.

    Attributes:
        is_stopped: a stop text was found; what came before it has been returned.
    """

    def __init__(self, tokenizer: TokenizerWrapper, stop: tuple[str, ...]) -> None:
        self.is_stopped = False
        self._detokenizer = tokenizer.detokenizer
        self._silent = _special_tokens(tokenizer).keys() - _markers(tokenizer)
        self._machine = (
            TextStateMachine({"normal": [(text, None) for text in stop]}) if stop else None
        )
        self._state = self._machine.make_state("normal") if self._machine else None

    def add(self, token: int) -> str:
        """Take the next token and return the text that is now certain."""
        if token not in self._silent:
            self._detokenizer.add_token(token)
        return self._released(self._detokenizer.last_segment)

    def finish(self) -> str:
        """Return the text still held back; nothing more comes."""
        self._detokenizer.finalize()
        text = self._released(self._detokenizer.last_segment)
        if self._machine is None or self.is_stopped:
            return text
        self._state, held, _ = TextStateMachine.flush(self._state)
        return text + str(held)

    def _released(self, text: str) -> str:
        if self._machine is None or self.is_stopped:
            return "" if self.is_stopped else text
        self._state, segments = TextStateMachine.split(self._state, text)
        self.is_stopped = self._state[0] is None
        return "".join(part for _, part in segments)
