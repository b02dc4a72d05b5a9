"""
From token ids to what an answer says: text, thoughts, calls of tools; runs on the MLX thread.

mlx-lm's state machine tells by the text in which part of the answer a token falls, its parsers read the
calls in each model's own notation.
"""

from __future__ import annotations

import functools
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from service.engine.constrain.grammar import call_marks, knows_json_calls
from service.engine.text.prompt import special_tokens
from service.protocol import Chat, FinishReason, Job, TokenLogprob, Tool, ToolCall

_PLAIN = TextStateMachine({"normal": []})

ParseCalls = Callable[[str, list[dict[str, Any]]], Any]


@dataclass
class Said:
    """What became certain with one token."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Reader:
    """
    Reads the answers of one model.

    Args:
        tokenizer: the model's own.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        self._before = tokenizer.encode("a", add_special_tokens=False)
        self._silent = special_tokens(tokenizer).keys() - _markers(tokenizer)
        self._own = make_text_state_machine(tokenizer)
        self._forced = _forced_machine(tokenizer)

    def answer(self, job: Job, *, is_thinking: bool = False) -> Answer:
        """Return the answer to *job*, nothing of it said yet; its prompt may end inside of thoughts."""
        if not isinstance(job.prompt, Chat):
            return self._continuation(job)
        tools = job.prompt.tools
        # What is forced is JSON, also from models that call in another notation by themselves.
        is_forced = bool(job.must_call or job.constraint) or knows_json_calls(self._tokenizer)
        machine, parse = self._own, self._tokenizer.tool_parser
        if tools and is_forced:
            machine, parse = self._forced, json_tools.parse_tool_call
        begin = self._tokenizer.response_initial_state or "normal"
        calls = _Calls(tools, parse) if tools and parse is not None else None
        return Answer(
            self._detokenizer(),
            self._silent,
            machine.make_state("reasoning" if is_thinking else begin),
            _Stop(job.stop),
            calls,
            marks=self._marks(forced=machine is self._forced),
            has_one_call=not job.parallel_tool_calls,
        )

    def _detokenizer(self) -> Any:
        """Return a detokenizer in the middle of a text, since at its start it would drop a space."""
        found = self._tokenizer.detokenizer
        for token in self._before:
            found.add_token(token)
        _ = found.last_segment
        return found

    def _continuation(self, job: Job) -> Answer:
        """Return what goes on in the middle of a text: marks are text in it."""
        return Answer(
            self._detokenizer(),
            self._silent,
            _PLAIN.make_state("normal"),
            _Stop(job.stop),
            None,
            marks=("", ""),
            has_one_call=False,
        )

    def _marks(self, *, forced: bool) -> tuple[str, str]:
        if forced:
            return call_marks(self._tokenizer)
        return self._tokenizer.tool_call_start or "", self._tokenizer.tool_call_end or ""


class Answer:
    """
    One answer as its tokens come. Text that may be the start of a mark or of a stop text is held back.

    Attributes:
        is_over: a stop text was found, or the one call that was wanted; nothing more is said.
        n_reasoning_tokens: how many tokens were thoughts.
    """

    def __init__(
        self,
        detokenizer: Any,
        silent: set[int],
        state: Any,
        stop: _Stop,
        calls: _Calls | None,
        *,
        marks: tuple[str, str],
        has_one_call: bool,
    ) -> None:
        self.is_over = False
        self.n_reasoning_tokens = 0
        self._detokenizer = detokenizer
        self._silent = silent
        self._state = state
        self._stop = stop
        self._calls = calls
        self._marks = marks
        self._has_one_call = has_one_call
        self._open_call: str | None = None
        self._n_calls = 0
        self._is_after_mark = state[0] == "reasoning"
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()

    def add(self, token: int, logprob: TokenLogprob | None = None) -> Said:
        """Take the next token, with its log-probability where that is reported."""
        said = Said()
        if self.is_over:
            return said
        was, began = self._state[0], self._stop.n_read
        if token not in self._silent:
            self._detokenizer.add_token(token)
        self._read(self._detokenizer.last_segment, said)
        self.n_reasoning_tokens += was == "reasoning"
        if logprob is not None and "normal" in {was, self._state[0]}:
            self._waiting.append((began, logprob))
        said.logprobs = tuple(self._certain())
        return said

    def finish(self) -> Said:
        """Return what is still held back; nothing more comes."""
        said = Said()
        self._detokenizer.finalize()
        if not self.is_over:
            self._read(self._detokenizer.last_segment, said)
        if not self.is_over:
            self._state, held, state = TextStateMachine.flush(self._state)
            self._take(state, held, said)
            if self._open_call is not None:
                self._close_call(said, is_whole=not self._marks[1])
            said.text += self._stop.rest()
        said.logprobs = tuple(self._certain())
        return said

    @property
    def stop_text(self) -> str | None:
        """The stop text that ended the answer; None: none did, or not yet."""
        return self._stop.found

    def reason(self, ended: FinishReason) -> FinishReason:
        """Return why the answer ended, given why its tokens did."""
        if self.is_over:
            ended = "stop"
        return "tool_calls" if self._n_calls and ended == "stop" else ended

    def _read(self, text: str, said: Said) -> None:
        self._state, segments = TextStateMachine.split(self._state, text)
        for i, (state, part) in enumerate(segments):
            if i and self._open_call is not None and state != "tool":
                self._close_call(said, is_whole=True)
            self._is_after_mark |= i > 0
            if state == "tool" and self._open_call is None:
                self._open_call = ""
            self._take(state, part, said)
            if self.is_over:
                return

    def _take(self, state: str | None, text: str, said: Said) -> None:
        """Put *text* where the *state* it was said in belongs."""
        if state == "tool" and self._open_call is not None:
            self._open_call += text
            return
        if self._is_after_mark:  # what sets the parts apart is no text
            text = text.lstrip()
            self._is_after_mark = not text
        if state == "reasoning":
            said.reasoning += text
        elif state == "normal":
            said.text += self._stop.passed(text)
            self.is_over |= self._stop.is_found

    def _close_call(self, said: Said, *, is_whole: bool) -> None:
        """Read the call that has ended, or hand its text back if it is none."""
        text, self._open_call = self._open_call or "", None
        calls = self._calls.read(text) if self._calls is not None and is_whole else ()
        if calls:
            said.tool_calls += calls[:1] if self._has_one_call else calls
            self._n_calls += len(calls)
            self.is_over |= self._has_one_call
            return
        start, end = self._marks
        said.text += self._stop.passed(start + text + (end if is_whole else ""))
        self.is_over |= self._stop.is_found

    def _certain(self) -> list[TokenLogprob]:
        """Return the log-probabilities of the tokens whose text, or the beginning of it, is out."""
        found = []
        stop = self._stop
        while self._waiting and (
            self._waiting[0][0] < stop.n_passed
            or (stop.n_passed == stop.n_read and not stop.is_found)
        ):
            found.append(self._waiting.popleft()[1])
        return found


class _Stop:
    """
    Looks for stop texts in what goes out.

    Attributes:
        found: the one that was there; it and what follows it are left out. None: none yet.
        n_read: characters taken in.
        n_passed: characters let out.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.found: str | None = None
        self.n_read = 0
        self.n_passed = 0
        self._state = None
        if texts:  # each leads into a state named after it, which nothing leads out of
            states = dict.fromkeys(texts, ()) | {"": [(text, text) for text in texts]}
            self._state = TextStateMachine(states).make_state("")

    @property
    def is_found(self) -> bool:
        """Whether one was there."""
        return self.found is not None

    def passed(self, text: str) -> str:
        """Return what is certain to be no part of a stop text."""
        self.n_read += len(text)
        if self._state is not None and not self.is_found:
            self._state, segments = TextStateMachine.split(self._state, text)
            self.found = self._state[0] or None
            text = "".join(part for state, part in segments if not state)
        elif self.is_found:
            text = ""
        self.n_passed += len(text)
        return text

    def rest(self) -> str:
        """Return what was held back; nothing more comes."""
        if self._state is None or self.is_found:
            return ""
        self._state, held, _ = TextStateMachine.flush(self._state)
        self.n_passed += len(held)
        return str(held)


class _Calls:
    """Reads calls of the tools that a request offers."""

    def __init__(self, tools: Sequence[Tool], parse: ParseCalls) -> None:
        self._names = {tool.name for tool in tools}
        self._parse = parse
        self._described = functools.cache(lambda: [_described(tool) for tool in tools])

    def read(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that *text* is; none unless all of it is calls of tools that are offered."""
        try:
            found = self._parse(text, self._described())
            entries = found if isinstance(found, list) else [found]
            return tuple(self._call(entry) for entry in entries)
        except Exception:  # whatever a model writes, the parsers raise each in their own way
            return ()

    def _call(self, entry: dict[str, Any]) -> ToolCall:
        arguments = entry.get("arguments") or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if entry["name"] not in self._names or not isinstance(arguments, dict):
            raise ValueError("no call of an offered tool")
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # half a character can't be sent
            text = json.dumps(arguments, allow_nan=False)
        return ToolCall(f"call_{secrets.token_hex(12)}", entry["name"], text)


def _described(tool: Tool) -> dict[str, Any]:
    """Return *tool* as mlx-lm's parsers look types up in it."""
    function = {"name": tool.name, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}


def _forced_machine(tokenizer: TokenizerWrapper) -> TextStateMachine:
    """Return what finds calls as `grammar` forces them."""
    if knows_json_calls(tokenizer):
        return make_text_state_machine(tokenizer)
    start, end = call_marks(tokenizer)
    transitions = {"normal": [(start, "tool")], "tool": [(end, "normal")]}
    if tokenizer.has_thinking:
        transitions["normal"].append((tokenizer.think_start, "reasoning"))
        transitions["reasoning"] = [(tokenizer.think_end, "normal")]
    return TextStateMachine(transitions)


def _markers(tokenizer: TokenizerWrapper) -> set[int]:
    """Return the special tokens that set tool calls and thoughts apart, and so have to be read."""
    texts = {
        tokenizer.tool_call_start,
        tokenizer.tool_call_end,
        tokenizer.think_start,
        tokenizer.think_end,
        *(tokenizer.structural_markers or ()),
        *(mark for edges in tokenizer.response_transitions.values() for mark, _ in edges),
    }
    return {i for i, text in special_tokens(tokenizer).items() if text in texts}
