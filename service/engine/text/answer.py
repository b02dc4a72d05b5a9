"""
From token ids to what an answer says: text, thoughts, tool calls. Belongs to the MLX thread.

mlx-lm's state machine tells by the text in which part of the answer a token falls; the job's `CallFormat` has
that machine and the reader of the calls. No mark ever becomes text.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.text.call_format import CallFormat, formats
from service.engine.text.call_readers import CallReader, ReadCall
from service.protocol import Chat, FinishReason, Job, TokenLogprob, Tool, ToolCall

_UNCUT = frozenset({"tool", "start"})  # parts in which special tokens are text to those who read it
_ID = re.compile(r"[\w.:-]{1,64}")
_HALVES = re.compile("[\ud800-\udfff]")


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
        self._formats = formats(tokenizer)

    def answer(self, job: Job, *, is_thinking: bool = False) -> Answer:
        """Return the answer to *job*, empty so far; the prompt of a chat may end inside of thoughts."""
        if not isinstance(job.prompt, Chat):
            return self._answer(job, self._formats.plain)
        tools = job.prompt.tools
        if job.must_call or job.constraint:
            call_format = self._formats.forced if tools else self._formats.toolless_forced
        else:
            call_format = self._formats.own if tools else self._formats.toolless
        if is_thinking:
            call_format = replace(call_format, initial_state="reasoning")
        return self._answer(job, call_format, tools)

    def _answer(self, job: Job, call_format: CallFormat, tools: Sequence[Tool] = ()) -> Answer:
        return Answer(
            self._detokenizer(),
            call_format,
            _Calls(tools, call_format.reader) if tools and call_format.reader else None,
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
        calls: reads the answer's calls; None: nothing in it is a call.
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
        self._part = call_format.initial_state
        self._state = call_format.machine.make_state(self._part)
        self._lead: str | None = "" if self._part == "start" else None
        self._calls = calls
        self._stop_texts = stop_texts
        self._is_parallel = is_parallel
        self._open_call: str | None = None
        self._n_calls = 0
        self._is_after_mark = self._part == "reasoning"
        self._unsent_logprobs: deque[tuple[int, TokenLogprob]] = deque()

    def add(self, token: int, logprob: TokenLogprob | None = None) -> Parsed:
        """Take the next token, with its log-probability where that is reported."""
        parsed = Parsed()
        if self.is_over:
            return parsed
        part, begins_at = self._part, self._stop_texts.n_taken
        if token not in self._format.silent_tokens or part in _UNCUT:
            self._detokenizer.add_token(token)
        self._parse(self._detokenizer.last_segment, parsed)
        self.n_reasoning_tokens += part == "reasoning"
        if logprob is not None and "normal" in {part, self._part}:
            if token in self._format.textless_tokens:
                logprob = msgspec.structs.replace(
                    logprob, chosen=msgspec.structs.replace(logprob.chosen, piece=b"")
                )
            self._unsent_logprobs.append((begins_at, logprob))
        parsed.logprobs = tuple(self._certain_logprobs())
        return parsed

    def finish(self, ended: FinishReason = "stop") -> Parsed:
        """Return what is still held back; nothing more comes, since the tokens *ended* for this reason."""
        parsed = Parsed()
        self._detokenizer.finalize()
        if not self.is_over:
            self._parse(self._detokenizer.last_segment, parsed)
        if not self.is_over:
            if ended == "length":
                self._cut(parsed)
            else:
                self._end(parsed)
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
        if self._lead is not None:
            text = self._open(self._lead + text, parsed)
        self._state, segments = TextStateMachine.split(self._state, text)
        for i, (part, piece) in enumerate(segments):
            if i and self._open_call is not None and part != "tool":
                self._close_call(parsed)
            self._is_after_mark |= i > 0 and segments[i - 1][0] != part
            if part == "tool" and self._open_call is None:
                self._open_call = ""
            if part != "start":
                self._append(part, piece, parsed)
            if self.is_over:
                return
        self._part = part
        if part == "start" and self._lead is None:
            self._lead = self._format.reopening
            self._parse(piece, parsed)

    def _open(self, lead: str, parsed: Parsed) -> str:
        """Ask the opener what begins with *lead*; return the text in which marks are to be looked for."""
        assert self._format.opener is not None
        opened = self._format.opener(lead, self._calls.names if self._calls else ())
        if opened is None:
            self._lead = lead
            return ""
        self._lead = None
        self._state = self._format.machine.make_state(opened.part)
        if opened.part == "tool":
            self._open_call = ""
        self._append(opened.part, opened.head, parsed)
        return opened.text

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

    def _end(self, parsed: Parsed) -> None:
        """End the answer where the model ended it; a call without its closing mark may be whole."""
        self._state, held_back, part = TextStateMachine.flush(self._state)
        if part != "tool":
            self._append(part, self._format.marks.sub("", held_back), parsed)
        elif not self._format.end.startswith(held_back):
            self._append(part, held_back, parsed)
        if self._open_call is not None:
            self._close_call(parsed)
        if self._lead and self._format.keeps_unopened:
            self._append_text(self._format.marks.sub("", self._lead), parsed)

    def _cut(self, parsed: Parsed) -> None:
        """End the answer where its limit cuts it; what may be the beginning of a mark is no text."""
        self._state, held_back, part = TextStateMachine.flush(self._state)
        if part == "tool" or len(held_back) < 2:
            self._append(part, held_back, parsed)
        if self._open_call is None:
            return
        text, self._open_call = self._open_call, None
        calls, is_text = self._calls.cut(text) if self._calls else ((), True)
        self._add_calls(calls, parsed)
        if is_text:
            self._append_text(self._format.marks.sub("", text), parsed)

    def _close_call(self, parsed: Parsed) -> None:
        """Read the call that has ended, or hand its text back, without its marks, if it is none."""
        text, self._open_call = self._open_call or "", None
        calls = self._calls.whole(text) if self._calls else ()
        if calls:
            self._add_calls(calls, parsed)
            self.is_over |= not self._is_parallel
        else:
            self._append_text(self._format.marks.sub("", text), parsed)

    def _add_calls(self, calls: tuple[ToolCall, ...], parsed: Parsed) -> None:
        parsed.tool_calls += calls if self._is_parallel else calls[:1]
        self._n_calls += len(calls)

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
    """
    Reads calls of the tools that a request offers.

    Attributes:
        names: of the tools.
    """

    def __init__(self, tools: Sequence[Tool], reader: CallReader) -> None:
        self.names: Collection[str] = {tool.name for tool in tools}
        self._reader = reader
        self._schemas = functools.cache(lambda: [_schema(tool) for tool in tools])
        self._ids: set[str] = set()

    def whole(self, text: str) -> tuple[ToolCall, ...]:
        """Return the calls that *text* is; none unless all of it is calls of tools that are offered."""
        try:
            return tuple(map(self._call, self._reader.whole(text, self._schemas())))
        except Exception:  # whatever a model writes, each parser raises in its own way
            return ()

    def cut(self, text: str) -> tuple[tuple[ToolCall, ...], bool]:
        """Return the calls in *text*, whose end is missing, and whether it is no call."""
        try:
            reading = self._reader.cut(text, self._schemas())
            calls = tuple(map(self._call, reading.calls))
        except Exception:
            return (), True
        if reading.cut is None:
            return calls, False
        if reading.cut.name not in self.names:
            return calls, not calls
        name, arguments, own_id = reading.cut
        return (*calls, ToolCall(self._id(own_id), name, str(arguments), is_cut=True)), False

    def _call(self, read: ReadCall) -> ToolCall:
        arguments = read.arguments or {}
        if isinstance(arguments, str):
            arguments = json.loads(arguments, strict=False)
        if read.name not in self.names or not isinstance(arguments, dict):
            raise ValueError("no call of an offered tool")
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if _HALVES.search(text):  # half a character can't be sent
            text = json.dumps(arguments, allow_nan=False)
        return ToolCall(self._id(read.id), read.name, text)

    def _id(self, own: str | None) -> str:
        """Return the id that the model gave a call, if it can be one and is new; else one of ours."""
        if not isinstance(own, str) or not _ID.fullmatch(own) or own in self._ids:
            return f"call_{secrets.token_hex(12)}"
        self._ids.add(own)
        return own


def _schema(tool: Tool) -> dict[str, Any]:
    """Return *tool* as mlx-lm's parsers look types up in it."""
    function = {"name": tool.name, "parameters": json.loads(tool.parameters)}
    return {"type": "function", "function": function}
