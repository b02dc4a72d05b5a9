"""
Requests as rows of one batch: mlx-lm's BatchGenerator, with each row's text beside it.

One `step` is one decode step for every row, or a piece of the prompts that wait, or both.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_lm.generate import BatchGenerator, GenerationBatch, StopSequences, make_stop_sequences

from service.engine.load import LoadedModel
from service.engine.sampling import sampler_for
from service.engine.text import Answer
from service.protocol import Delta, FinishReason, Job

PREFILL_STEP_TOKENS = 512
PREFILL_ROWS = 8
_NO_END = StopSequences()


@dataclass
class _Row:
    ticket: int
    answer: Answer
    n_tokens: int = 0


class Batcher:
    """
    The rows that generate now. Belongs to the MLX thread.

    Args:
        loaded: the model and its tokenizer.
        n_logits: the logit width.
        max_rows: most rows at once.
    """

    def __init__(self, loaded: LoadedModel, n_logits: int, max_rows: int) -> None:
        self._loaded = loaded
        self._n_logits = n_logits
        self._max_rows = max_rows
        self._turn_ends = make_stop_sequences(loaded.tokenizer)
        self.reset()

    @property
    def tickets(self) -> list[int]:
        """The tickets of all rows, prefilling or decoding."""
        return [row.ticket for row in self._rows.values()]

    def reset(self) -> None:
        """Drop every row and everything that a failed step may have left behind."""
        self._rows: dict[int, _Row] = {}
        self._generator = BatchGenerator(
            self._loaded.model,
            completion_batch_size=self._max_rows,
            prefill_batch_size=min(PREFILL_ROWS, self._max_rows),
            prefill_step_size=PREFILL_STEP_TOKENS,
        )

    def add(self, ticket: int, prompt: list[int], job: Job) -> None:
        """Take *job* in; its *prompt* is token ids, shape (n,), 1 <= n < context length."""
        room = self._loaded.card.context_length - len(prompt)
        sampler = sampler_for(job.sampling, self._loaded.sampling, self._n_logits)
        (uid,) = self._generator.insert(
            [prompt],
            max_tokens=[min(job.max_tokens or room, room)],
            samplers=[sampler],
            stop_sequences=[_NO_END if job.ignore_eos else self._turn_ends],
        )
        self._rows[uid] = _Row(ticket, Answer(self._loaded.tokenizer, job.stop))

    def remove(self, ticket: int) -> None:
        """Drop the row of *ticket* and its cache, if there is one."""
        for uid, row in self._rows.items():
            if row.ticket == ticket:
                self._drop(uid)
                return

    def step(self) -> tuple[Delta, ...]:
        """Advance every row and return what it brought."""
        _, responses = self._generator.next()
        deltas = [self._read(response) for response in responses if response.uid in self._rows]
        return tuple(delta for delta in deltas if delta.text or delta.finish_reason)

    def _read(self, response: GenerationBatch.Response) -> Delta:
        """Turn one row's new token into text; the row goes if that was its last."""
        row = self._rows[response.uid]
        reason: FinishReason | None = response.finish_reason
        ends_turn = reason == "stop"
        row.n_tokens += not ends_turn
        text = "" if ends_turn else row.answer.add(response.token)
        if reason is not None:
            text += row.answer.finish()
            del self._rows[response.uid]
        elif row.answer.is_stopped:
            self._drop(response.uid)
        if row.answer.is_stopped:
            reason = "stop"
        return Delta(row.ticket, text, row.n_tokens, reason)

    def _drop(self, uid: int) -> None:
        del self._rows[uid]
        self._generator.remove([uid])
