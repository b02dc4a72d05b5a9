"""What a step brings, and how tokens become deltas."""

from __future__ import annotations

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from msgspec.structs import replace

from service.engine.decoding.batch import Advance
from service.engine.decoding.scoring import Scored
from service.engine.decoding.sequence import Sequence
from service.engine.model.vocabulary import Vocabulary
from service.protocol import Delta, FinishReason, TokenLogprob


@dataclass(frozen=True)
class Refusal:
    """A sequence whose answer can't be held to its form; *param* is the request's field that asked for it."""

    ticket: int
    param: str


@dataclass
class StepOutput:
    """
    All that a step brought.

    Attributes:
        deltas: what sequences say, in order.
        refusals: sequences that ended since their form can't be followed.
        failures: tickets of sequences that broke, by our fault.
        retried: tickets of sequences that go on alone for a while, since a step of several broke.
        not_finite: tickets of sequences for which the model computed what is no number.
    """

    deltas: list[Delta] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    retried: list[int] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)


class Teller:
    """
    Makes deltas of tokens.

    Args:
        vocabulary: the model's tokens.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def tell(self, advance: Advance, output: StepOutput) -> bool:
        """Put what the new tokens of a sequence say into *output*; return whether its answer is over."""
        sequence = advance.sequence
        for i, token in enumerate(advance.tokens, start=1):
            reason = sequence.finish_reason if i == len(advance.tokens) else None
            delta = self._delta(sequence, token, reason)
            if sequence.sampling.token_mask is not None and sequence.sampling.token_mask.is_broken:
                constraint = sequence.job.constraint
                param = constraint.param if constraint else "tools"
                output.refusals.append(Refusal(sequence.ticket, param))
                return True
            output.deltas += _apart(delta)
            if delta.finish_reason is not None:
                sequence.finish_reason = sequence.finish_reason or "stop"
                return True
        return False

    def echo(self, sequence: Sequence, scored: Several[Scored] | None) -> Delta:
        """Return the prompt's own text, with log-probabilities where it was *scored*."""
        logprobs: tuple[TokenLogprob, ...] = ()
        if scored is not None:
            first, *others = sequence.tokens
            logprobs = (
                self._vocabulary.token_logprob(first, None, ()),
                *(
                    self._vocabulary.token_logprob(token, value, top)
                    for token, (value, top) in zip(others, scored, strict=True)
                ),
            )
        if sequence.job.max_tokens == 0:
            spent = sequence.spent()
            return Delta(
                sequence.ticket, sequence.text, 0, "length", logprobs=logprobs, spent=spent
            )
        return Delta(sequence.ticket, sequence.text, 0, logprobs=logprobs)

    def _delta(self, sequence: Sequence, token: int, reason: FinishReason | None) -> Delta:
        """Return what one more *token* says; *reason* is why it is the last one, if it is."""
        if sequence.first_s is None:
            sequence.first_s = time.monotonic()
        logprob = self._logprob(sequence, token)
        ends_turn = reason == "stop"
        sequence.n_said += not ends_turn
        answer = sequence.answer
        said = answer.finish() if ends_turn else answer.add(token, logprob)
        if ends_turn and sequence.job.echo and logprob is not None:
            said.logprobs += (logprob,)  # who scores prompts counts on one for each token drawn
        if reason == "length" and not answer.is_over:
            rest = answer.finish(reason)
            said.text += rest.text
            said.reasoning += rest.reasoning
            said.tool_calls += rest.tool_calls
            said.logprobs += rest.logprobs
        is_over = answer.is_over or reason is not None
        return Delta(
            sequence.ticket,
            said.text,
            sequence.n_said,
            answer.reason(reason or "stop") if is_over else None,
            said.reasoning,
            answer.n_reasoning_tokens,
            said.tool_calls,
            said.logprobs,
            sequence.spent() if is_over else None,
            answer.stop_text,
        )

    def _logprob(self, sequence: Sequence, token: int) -> TokenLogprob | None:
        """Return what was reported for the sequence's token; None where nothing is."""
        if not sequence.sampling.reports:
            return None
        report, place = sequence.sampling.reports.popleft()
        value, top = report.read(place)
        return self._vocabulary.token_logprob(token, value, top[: sequence.job.top_logprobs])


def _apart(delta: Delta) -> list[Delta]:
    """Return what *delta* says, and the end that it tells of, as deltas of their own."""
    says = delta.text or delta.reasoning or delta.tool_calls or delta.logprobs
    if delta.finish_reason is None:
        return [delta] if says else []
    ends = replace(delta, text="", reasoning="", tool_calls=(), logprobs=())
    if not says:
        return [ends]
    return [replace(delta, finish_reason=None, spent=None, stop_text=None), ends]
