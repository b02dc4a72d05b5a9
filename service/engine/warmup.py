"""
Real requests through the very scheduler that serves, before any client's.

Warm-up compiles the shapes and touches the memory that serving uses: a prefill and decode steps for one row,
then for as many rows as may generate at once; greedy and drawn. After it the prefix cache shows that with
this model an answer is the same whether its prompt has been read before or not.
"""

from __future__ import annotations

from service.engine.scheduler.scheduler import Scheduler
from service.engine.text.prompt import Prepared
from service.protocol import Delta, Job, Sampling, Tokens

N_TOKENS = 4
N_COMPARED = 8
PREFIX_TOKENS = 64
MAX_WINDOW = 1024  # to read past a longer one would keep everyone waiting
_TICKETS = -1  # counted downwards: no client's ticket is negative


def warm_up(scheduler: Scheduler, prompt: list[int], max_rows: int) -> None:
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
            scheduler.add(ticket, Prepared(prompt), job)
            unfinished.add(ticket)
        while unfinished:
            deltas = scheduler.step().deltas
            unfinished -= {delta.ticket for delta in deltas if delta.finish_reason}
            if unfinished and not scheduler.tickets:
                raise RuntimeError("warm-up rows vanished without finishing")


def answers_alike(scheduler: Scheduler, prompt: list[int]) -> bool:
    """
    Tell whether a prompt that was read before gets the answer that it got at first, token for token.

    The prompt is longer than the model's window, where it has one of a bearable size.

    Raises:
        Exception: whatever MLX raised.
    """
    window = scheduler.window
    n_tokens = PREFIX_TOKENS + (int(window) if window <= MAX_WINDOW else 0)
    n_tokens = min(n_tokens, scheduler.context_length - N_COMPARED)
    ids = (prompt * (n_tokens // len(prompt) + 1))[:n_tokens]
    cold, warm = (_answer(scheduler, ids) for _ in range(2))
    assert warm[-1].spent is not None
    was_cached = warm[-1].spent.n_cached_tokens > 0
    return was_cached and _tokens(cold) == _tokens(warm)


def _answer(scheduler: Scheduler, ids: list[int]) -> list[Delta]:
    job = Job(
        Tokens(tuple(ids)),
        Sampling(temperature=0.0),
        max_tokens=N_COMPARED,
        ignore_eos=True,
        top_logprobs=0,
    )
    scheduler.add(_TICKETS, Prepared(ids), job)
    deltas: list[Delta] = []
    while scheduler.tickets:
        deltas += scheduler.step().deltas
    return deltas


def _tokens(deltas: list[Delta]) -> list[int]:
    return [each.chosen.id for delta in deltas for each in delta.logprobs]
