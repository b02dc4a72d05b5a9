"""
Real requests through the very batcher that serves, before any client's.

Warm-up compiles the shapes and touches the memory that serving uses: a prefill and decode steps for one row,
then for as many rows as may generate at once; greedy and drawn. After it `trial` sees whether with this model
an answer is the same whether its prompt has been read before or not.
"""

from __future__ import annotations

from service.engine.scheduler.scheduler import Batcher
from service.engine.text.prompt import Prepared
from service.protocol import Job, Sampling, Tokens

N_TOKENS = 4
_TICKETS = -1  # counted downwards: no client's ticket is negative


def warm_up(batcher: Batcher, prompt: list[int], max_rows: int) -> None:
    """
    Generate a few tokens for one row and for *max_rows* rows.

    Raises:
        RuntimeError: a row ended without a single token or its end.
        Exception: whatever MLX raised; the model cannot be trusted to serve.
    """
    for n_rows in dict.fromkeys((1, max_rows)):
        unfinished = set()
        for i in range(n_rows):
            ticket = _TICKETS - i
            sampling = Sampling(temperature=0.0 if i % 2 == 0 else 1.0, top_p=0.9)
            job = Job(Tokens(tuple(prompt)), sampling, max_tokens=N_TOKENS, ignore_eos=True)
            batcher.add(ticket, Prepared(prompt), job)
            unfinished.add(ticket)
        while unfinished:
            deltas = batcher.step()
            unfinished -= {delta.ticket for delta in deltas if delta.finish_reason}
            if unfinished and not batcher.tickets:
                raise RuntimeError("warm-up rows vanished without finishing")
