"""
From token ids to what an answer says: text, thoughts, tool calls. Belongs to the MLX thread.

mlx-lm's state machine tells by the text in which part of the answer a token falls; the job's `CallFormat` has
that machine and the parser of the calls.
"""

from __future__ import annotations

import functools
import json
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.text.call_format import (
    CallFormat,
    ParseCalls,
    forced_format,
    own_format,
    plain_format,
)
from service.protocol import Chat, FinishReason, Job, TokenLogprob, Tool, ToolCall


@dataclass
class Parsed:
    """What became certain with one token."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class AnswerParser:
    """
    Parses the answers of one model.

    Args:
        tokenizer: the model's own.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        self._inner_tokens = tokenizer.encode("a", add_special_tokens=False)
        self._own_format = own_format(tokenizer)
        self._forced_format = forced_format(tokenizer)
        self._plain_format = plain_format(self._own_format)

    def answer(self, job: Job, *, is_thinking: bool = False) -> Answer:
        """Return the answer to *job*, empty so far; the prompt of a chat may end inside of thoughts."""
        if not isinstance(job.prompt, Chat):
            return self._answer(job, self._plain_format)
        tools = job.prompt.tools
        is_forced = tools and (job.must_call or job.constraint)
        call_format = self._forced_format if is_forced else self._own_format
        if is_thinking:
            call_format = replace(call_format, initial_state="reasoning")
        return self._answer(job, call_format, tools)

    def _answer(self, job: Job, call_format: CallFormat, tools: Sequence[Tool] = ()) -> Answer:
        parse = call_format.parse
        return Answer(
            self._detokenizer(),
            call_format,
            _Calls(tools, parse) if tools and parse is not None else None,
            _StopTexts(job.stop),
            is_parallel=job.parallel_tool_calls,
        )

    def _detokenizer(self) -> Any:
        """Return a detokenizer in the middle of a text, since at the start of one it would drop a space."""
        found = self._tokenizer.detokenizer
        for token in self._inner_tokens:
            found.add_token(token)
        _ = found.last_segment
        return found


class Answer:
    """
    One answer as its tokens come. Text that may be the start of a mark or of a stop text is held back.

    Args:
        detokenizer: makes text of tokens, in the middle of a text.
        call_format: how the answer is written.
        calls: parses the answer's calls; None: nothing in it is a call.
        stop_texts: what ends the answer.
        is_parallel: there may be several calls; else the first one ends the answer.

    Attributes:
        is_over: a stop text was found, or the one call that was wanted; nothing more is said.
        n_reasoning_tokens: how many tokens were thoughts.
    """

    def __init__(
        self,
        detokenizer: Any,
        call_format: CallFormat,
        calls: _Calls | None,
        stop_texts: _StopTexts,
        *,
        is_parallel: bool,
    ) -> None:
        self.is_over = False
        self.n_reasoning_tokens = 0
        self._detokenizer = detokenizer
        self._format = call_format
        self._state = call_format.machine.make_state(call_format.initial_state)
        self._calls = calls
        self._stop_texts = stop_texts
        self._is_parallel = is_parallel
        self._open_call: str | None = None
        self._n_calls = 0
        self._is_after_mark = call_format.initial_state == "reasoning"
        self._unsent_logprobs: deque[tuple[int, TokenLogprob]] = deque()

    def add(self, token: int, logprob: TokenLogprob | None = None) -> Parsed:
        """Take the next token, with its log-probability where that is reported."""
        parsed = Parsed()
        if self.is_over:
            return parsed
        part, begins_at = self._state[0], self._stop_texts.n_taken
        if token not in self._format.silent_tokens:
            self._detokenizer.add_token(token)
        self._parse(self._detokenizer.last_segment, parsed)
        self.n_reasoning_tokens += part == "reasoning"
        if logprob is not None and "normal" in {part, self._state[0]}:
            self._unsent_logprobs.append((begins_at, logprob))
        parsed.logprobs = tuple(self._certain_logprobs())
        return parsed

    def finish(self) -> Parsed:
        """Return what is still held back; nothing more comes."""
        parsed = Parsed()
        self._detokenizer.finalize()
        if not self.is_over:
            self._parse(self._detokenizer.last_segment, parsed)
        if not self.is_over:
            self._state, held_back, part = TextStateMachine.flush(self._state)
            self._append(part, held_back, parsed)
            if self._open_call is not None:
                self._close_call(parsed, is_whole=not self._format.end)
            parsed.text += self._stop_texts.rest()
        parsed.logprobs = tuple(self._certain_logprobs())
        return parsed

    @property
    def stop_text(self) -> str | None:
        """The stop text that ended the answer; None: none did, or not yet."""
        return self._stop_texts.found

    def reason(self, ended: FinishReason) -> FinishReason:
        """Return why the answer ended, given why its tokens did."""
        if self.is_over:
            ended = "stop"
        return "tool_calls" if self._n_calls and ended == "stop" else ended

    def _parse(self, text: str, parsed: Parsed) -> None:
        """Cut *text* where the answer's parts meet."""
        self._state, segments = TextStateMachine.split(self._state, text)
        for i, (part, piece) in enumerate(segments):
            if i and self._open_call is not None and part != "tool":
                self._close_call(parsed, is_whole=True)
            self._is_after_mark |= i > 0
            if part == "tool" and self._open_call is None:
                self._open_call = ""
            self._append(part, piece, parsed)
            if self.is_over:
                return

    def _append(self, part: str | None, text: str, parsed: Parsed) -> None:
        """Put *text* where the *part* of the answer that it stands in belongs."""
        if part == "tool" and self._open_call is not None:
            self._open_call += text
            return
        if self._is_after_mark:  # white space behind a mark sets parts apart and is no text
            text = text.lstrip()
            self._is_after_mark = not text
        if part == "reasoning":
            parsed.reasoning += text
        elif part == "normal":
            self._append_text(text, parsed)

    def _append_text(self, text: str, parsed: Parsed) -> None:
        parsed.text += self._stop_texts.take(text)
        self.is_over |= self._stop_texts.found is not None

    def _close_call(self, parsed: Parsed, *, is_whole: bool) -> None:
        """Parse the call that has ended, or hand its text back if it is none."""
        text, self._open_call = self._open_call or "", None
        calls = self._calls.parse(text) if self._calls is not None and is_whole else ()
        if calls:
            parsed.tool_calls += calls if self._is_parallel else calls[:1]
            self._n_calls += len(calls)
            self.is_over |= not self._is_parallel
            return
        end = self._format.end if is_whole else ""
        self._append_text(self._format.start + text + end, parsed)

    def _certain_logprobs(self) -> list[TokenLogprob]:
        """Return the log-probabilities of the tokens whose text, or the beginning of it, is out."""
        found = []
        while self._unsent_logprobs and self._stop_texts.is_out(self._unsent_logprobs[0][0]):
            found.append(self._unsent_logprobs.popleft()[1])
        return found


class _StopTexts:
    """
    Looks for stop texts in what goes out.

    Attributes:
        found: the stop text that was there; it and what follows it are left out. None: none yet.
        n_taken: characters taken in.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.found: str | None = None
        self.n_taken = 0
        self._n_out = 0
        self._state = None
        if texts:  # each leads into a state named after it, which nothing leads out of
            states = dict.fromkeys(texts, ()) | {"": [(text, text) for text in texts]}
            self._state = TextStateMachine(states).make_state("")

    def take(self, text: str) -> str:
        """Take *text* in and return what is certain to be no part of a stop text."""
        self.n_taken += len(text)
        if self.found is not None:
            return ""
        if self._state is not None:
            self._state, segments = TextStateMachine.split(self._state, text)
            self.found = self._state[0] or None
            text = "".join(piece for state, piece in segments if not state)
        self._n_out += len(text)
        return text

    def rest(self) -> str:
        """Return what was held back; nothing more comes."""
        if self._state is None or self.found is not None:
            return ""
        self._state, held_back, _ = TextStateMachine.flush(self._state)
        self._n_out += len(held_back)
        return str(held_back)

    def is_out(self, place: int) -> bool:
        """Whether the character at *place* is out, or nothing is held back before it."""
        return place < self._n_out or (self._n_out == self.n_taken and self.found is None)


class _Calls:
    """Parses calls of the tools that a request offers."""

    def __init__(self, tools: Sequence[Tool], parse: ParseCalls) -> None:
        self._names = {tool.name for tool in tools}
        self._parse = parse
        self._schemas = functools.cache(lambda: [_schema(tool) for tool in tools])

    def parse(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that *text* is; none unless all of it is calls of tools that are offered."""
        try:
            found = self._parse(text, self._schemas())
            entries = found if isinstance(found, list) else [found]
            return tuple(self._call(entry) for entry in entries)
        except Exception:  # whatever a model writes, each parser raises in its own way
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


def _schema(tool: Tool) -> dict[str, Any]:
    """Return *tool* as mlx-lm's parsers look types up in it."""
    function = {"name": tool.name, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}
