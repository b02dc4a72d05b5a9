"""From a chat, a text or token ids to a prompt that the model can take; runs on the text worker."""

from __future__ import annotations

import copy
import json
import math
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from numpy.typing import NDArray

from service.engine.cache.prefix_cache import n_shared
from service.engine.constrain.compile import Constrainer, UnfitGrammar
from service.engine.constrain.token_mask import Gate
from service.engine.model.vocabulary import Vocabulary
from service.protocol import Chat, Job, Prompt, Text, Tokens, Tool, ToolCall, Turn

Clean = Callable[[str], str]


class RefusedPrompt(Exception):
    """The job cannot become a prompt for this model, by the caller's fault."""

    def __init__(self, message: str, *, param: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(frozen=True)
class Prepared:
    """
    A job as the model can begin it.

    Attributes:
        ids: its prompt's token ids, shape (n,), 1 <= n.
        text: the prompt's text, as `echo` repeats it.
        is_thinking: the prompt ends inside of thoughts.
        gate: what its answer must be; None: anything.
        n_before: so many of its first tokens come before what its last turn says; 0: it isn't known.
    """

    ids: list[int]
    text: str = ""
    is_thinking: bool = False
    gate: Gate | None = None
    n_before: int = 0


class Prompter:
    """
    Turns chats, texts and token ids into prompts.

    Args:
        tokenizer: the model's own, with its chat template.
        context_length: longest prompt and answer together, in tokens.
        vocabulary: the model's tokens.
        allow_grammars: requests may bring grammars of their own.
        window: of prompts as long or longer, tell where a chat's last turn begins.
        model_context_length: what the model could do with more memory; None: it can do no more.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        context_length: int,
        vocabulary: Vocabulary,
        *,
        allow_grammars: bool = False,
        window: float = math.inf,
        model_context_length: int | None = None,
    ) -> None:
        # A copy: encoding switches options inside, while the MLX thread decodes with the original.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._context_length = context_length
        self._window = window
        self._model_context_length = model_context_length or context_length
        self._vocabulary = vocabulary
        self._longest_token = max(map(len, tokenizer.get_vocab()))  # in characters
        specials = sorted(special_tokens(tokenizer).values(), key=len, reverse=True)
        self._mark = secrets.token_hex(8)  # nobody outside ever sees it
        self._marked = re.compile(rf"{self._mark}(\d+)\.")
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._constrainer = Constrainer(tokenizer, vocabulary, allow_grammars=allow_grammars)

    def prepare(self, job: Job) -> Prepared:
        """
        Return *job* as the model can begin it; its prompt leaves room for at least one token.

        Raises:
            RefusedPrompt: the prompt can't be made or is too long, a token id is none of the model's,
                or the form that the answer shall have can't be followed.
        """
        ids = self.ids(job.prompt, self._context_length)
        room = self._context_length - len(ids)
        if room < 1 and job.max_tokens != 0:
            raise self._overflow(f"{len(ids)} or more", _param(job.prompt))
        for i, _ in job.sampling.logit_bias:
            if i >= self._vocabulary.n_logits:
                raise RefusedPrompt(
                    f"The model has no token {i}.", param="logit_bias", code="invalid_token"
                )
        is_thinking = self._is_thinking(ids)
        may_think = isinstance(job.prompt, Chat) and job.prompt.thinking is not False
        try:
            gate = self._constrainer.gate(job, is_thinking=is_thinking, may_think=may_think)
        except UnfitGrammar as error:
            raise RefusedPrompt(
                f"The answer can't be held to this form: {error.message}",
                param=error.param,
                code="invalid_json_schema" if error.is_schema else "invalid_grammar",
            ) from error
        n_before = self._n_before(job.prompt, ids) if len(ids) >= self._window else 0
        return Prepared(ids, self._echoed(job, ids), is_thinking, gate, n_before)

    def ids(self, prompt: Prompt, limit: int | None = None) -> list[int]:
        """
        Return the token ids of *prompt*, at least one.

        Args:
            prompt: a chat, a text, or ids to be checked.
            limit: how many there may be; more are not looked at. None: as many as there are.

        Raises:
            RefusedPrompt: the model has no chat template, or its template refuses these turns, or the
                prompt is empty, over the limit, or holds an id that is none of the model's.
        """
        match prompt:
            case Chat():
                ids = self._encode_chat(prompt, limit)
            case Text(text):
                self._check_length(text, limit, "prompt")
                ids = self._encode(text, add_special_tokens=True, split_special_tokens=True)
            case Tokens(ids=given):
                ids = list(given)
        param = _param(prompt)
        if limit is not None and len(ids) > limit:
            raise self._overflow(f"{len(ids)} or more", param)
        if not ids:
            raise RefusedPrompt("The prompt is empty.", param=param, code="invalid_prompt")
        if not 0 <= min(ids) <= max(ids) < self._vocabulary.n_tokens:
            raise RefusedPrompt(
                "The prompt holds a token that the model does not have.",
                param=param,
                code="invalid_token",
            )
        return ids

    def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Return the text of each of *ids* as bytes."""
        return tuple(map(self._vocabulary.piece, ids))

    def text(self, ids: Sequence[int]) -> str:
        """
        Return the text of *ids*.

        Raises:
            RefusedPrompt: one of them is none of the model's.
        """
        self.ids(Tokens(tuple(ids)))
        return str(self._tokenizer.decode(list(ids)))

    def _echoed(self, job: Job, ids: list[int]) -> str:
        if not job.echo:
            return ""
        return job.prompt.text if isinstance(job.prompt, Text) else self.text(ids)

    def _n_before(self, prompt: Prompt, ids: list[int]) -> int:
        """Return how many tokens come before what the last turn says: another text begins to differ there."""
        if not isinstance(prompt, Chat):
            return 0
        last = prompt.turns[-1]
        text = "#" if not (last.content or "").startswith("#") else "?"
        other = msgspec.structs.replace(last, content=text)
        turns = (*prompt.turns[:-1], other)
        rendered, hidden = self._hide_and_render(prompt)
        differs, _ = self._hide_and_render(msgspec.structs.replace(prompt, turns=turns))
        rest = rendered[n_shared(_characters(rendered), _characters(differs)) :]
        n_after = len(self._encode_rendered(rest, hidden, None)) if rest else len(ids)
        return max(len(ids) - n_after, 0)

    def _is_thinking(self, ids: list[int]) -> bool:
        """Whether thoughts were begun in the prompt and not ended."""
        if not self._tokenizer.has_thinking:
            return False
        begun = self._tokenizer.rfind_think_start(ids)
        return bool(begun > self._tokenizer.rfind_think_end(ids))

    def _overflow(self, how_many: str, param: str) -> RefusedPrompt:
        fits = f"the model's context holds {self._context_length}, prompt and answer together"
        if self._context_length < self._model_context_length:
            fits = (
                f"the server's memory holds {self._context_length}, prompt and answer together, "
                f"of the {self._model_context_length} of the model's context"
            )
        return RefusedPrompt(
            f"The prompt has {how_many} tokens; {fits}.",
            param=param,
            code="context_length_exceeded",
        )

    def _check_length(self, text: str, limit: int | None, param: str) -> None:
        """Refuse what is far too long before it is encoded."""
        if limit is not None and len(text) > limit * self._longest_token:
            raise self._overflow("far more", param)

    def _encode_chat(self, chat: Chat, limit: int | None) -> list[int]:
        """Render and encode; a special token spelled out in a message stays the text it is."""
        if not self._tokenizer.has_chat_template:
            raise RefusedPrompt(
                "This model has no chat template.", param="messages", code="chat_not_supported"
            )
        rendered, hidden = self._hide_and_render(chat)
        self._check_length(rendered, limit, "messages")
        return self._encode_rendered(rendered, hidden, limit)

    def _hide_and_render(self, chat: Chat) -> tuple[str, list[str]]:
        """Return what the template makes of *chat*, with marks for special tokens spelled out, and these."""
        hidden: dict[str, int] = {}

        def hide(match: re.Match[str]) -> str:
            return f"{self._mark}{hidden.setdefault(match.group(), len(hidden))}."

        def clean(text: str) -> str:
            return self._special.sub(hide, text)

        return self._render(chat, clean), list(hidden)

    def _encode_rendered(self, rendered: str, hidden: list[str], limit: int | None) -> list[int]:
        literal = [self._encode(text, split_special_tokens=True) for text in hidden]
        ids: list[int] = []
        for i, piece in enumerate(self._marked.split(rendered)):
            ids += self._encode(piece) if i % 2 == 0 else literal[int(piece)]
            if limit is not None and len(ids) > limit:
                break
        return ids

    def _render(self, chat: Chat, clean: Clean) -> str:
        options = _each_text(json.loads(chat.template_options), clean)
        if chat.thinking is not None:
            options["enable_thinking"] = chat.thinking
        if chat.tools:
            options["tools"] = [_tool_as_dict(tool, clean) for tool in chat.tools]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [_as_dict(turn, clean) for turn in chat.turns],
                    **options,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise RefusedPrompt(
                f"The model's chat template refuses these messages: {str(error)[:200]}",
                param="messages",
                code="template_refused",
            ) from error

    def _encode(
        self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> list[int]:
        return list(
            self._tokenizer.encode(
                text,
                add_special_tokens=add_special_tokens,
                split_special_tokens=split_special_tokens,
            )
        )


def _characters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _param(prompt: Prompt) -> str:
    """Return the request's field that holds a prompt like this."""
    return "messages" if isinstance(prompt, Chat) else "prompt"


def special_tokens(tokenizer: TokenizerWrapper) -> dict[int, str]:
    """Return the tokens that are signs to the model and no text, by id."""
    return {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if t.special}


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


def _tool_as_dict(tool: Tool, clean: Clean) -> dict[str, Any]:
    """Return *tool* as chat templates want it, which is as OpenAI's chats have it."""
    function: dict[str, Any] = {
        "name": clean(tool.name),
        "description": clean(tool.description or ""),
        "parameters": _each_text(json.loads(tool.parameters), clean),
    }
    return {"type": "function", "function": function}


def _each_text(value: Any, clean: Clean) -> Any:
    """Return *value*, decoded JSON, with every text in it cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_each_text(item, clean) for item in value]
    if isinstance(value, dict):
        return {clean(key): _each_text(item, clean) for key, item in value.items()}
    return value
