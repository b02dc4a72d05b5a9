"""
Whether answers are the same beside others, and with the prefix cache, tried before any client's request.

Prompts of unlike lengths are answered one after another, and then together. One prompt is answered twice:
cold, and with what reading it left behind. Both times the log-probabilities of the likeliest tokens are
compared, and not the words alone. Numbers of few bits are rounded otherwise where one token is read than
where many are, as kernels are chosen by the number of rows; where two tokens are nearly as likely, either
may be said then, and nothing is wrong. What is wrong, another mask, another position, keys of something
else, padding in a state, moves the numbers further than rounding can.

Measured, as the largest difference among the 20 likeliest tokens of 8 places, with the prefix cache:

                                         SmolLM2-135M    the built-in model, made for float32
    all rounded: bfloat16 to float32         0.22            0.80
    all rounded: float16 to float32          0.03            0.11
    layers in each other's place             2.6             3.4
    positions off by one                     4.4             3.7
    one token too many taken back            2.6             2.4
    keys of another prompt                   2.5             4.7
    a window forgotten                     has none          0.4 (random weights: 5.7)

Both answers share all keys and values but those of a few tokens, and so most of the rounding.
"""

from __future__ import annotations

import logging
import math
import random
from dataclasses import dataclass

import mlx.core as mx

from service.engine.cache.prefix_cache import PrefixCache, PrefixStore
from service.engine.scheduler.scheduler import Batching, Scheduler
from service.engine.text.prompt import Prepared
from service.protocol import Delta, Job, Sampling, TokenLogprob, Tokens

_log = logging.getLogger(__name__)

N_COMPARED = 8  # taste: tokens of the answer; more are said, less is the same by chance
N_TOP = 20  # of each place; the most that may be asked for
PREFIX_TOKENS = 64  # taste: read in no time, and enough for a position that is off to count
MAX_WINDOW = 1024  # taste: to read past a longer one would keep everyone waiting
TOLERANCE_EPS = 64  # measured: twice SmolLM2's rounding, in steps of the type (its epsilon)
MIN_TOLERANCE = (
    1e-3  # measured: float32 differed by 1e-4, as its exponentials and roots aren't exact
)
BATCH_LENGTHS = (23, 5, 9)  # taste: unlike, and few tokens even where all are padded to the longest
N_BESIDE = 4  # taste: tokens of each answer beside others; a large model needs its second for them
GROSS = (
    4  # taste: tolerances; where rounding chooses other experts, numbers move further than by it
)
_TICKET = -1  # counted downwards: no client's ticket is negative


@dataclass(frozen=True)
class Comparison:
    """
    What two answers to one prompt have in common.

    Attributes:
        n_cached_tokens: so many tokens of the prompt were not read again the second time.
        n_compared: in so many places the answers were compared: up to the first other token.
        largest: the largest difference of a log-probability; infinite where one is no number.
    """

    n_cached_tokens: int
    n_compared: int
    largest: float

    def is_alike(self, tolerance: float) -> bool:
        """Whether the cache was used, and changed nothing beyond *tolerance*."""
        return self.n_cached_tokens > 0 and self.largest <= tolerance


class NoAnswer(Exception):
    """The model ends without an answer, whatever it is asked; the log says why."""


def tolerance_for(dtype: mx.Dtype) -> float:
    """Return how far log-probabilities may part, where logits are computed as *dtype*."""
    return max(float(mx.finfo(dtype).eps) * TOLERANCE_EPS, MIN_TOLERANCE)


def open_prefixes(
    scheduler: Scheduler,
    prefixes: PrefixCache,
    store: PrefixStore | None,
    ids: list[int],
    dtype: mx.Dtype,
) -> None:
    """
    Let *scheduler* keep what it reads, unless it answers otherwise then.

    Args:
        scheduler: without any request, and with *prefixes*.
        prefixes: turned off where they change answers.
        store: where they outlive the process; used from now on, unless they are off.
        ids: the prompt to try it with, as `trial_prompt` makes it.
        dtype: what logits are computed as.
    """
    if not prefixes.is_on:
        return
    tolerance = tolerance_for(dtype)
    try:
        seen = compare(scheduler, ids)
        is_alike = seen.is_alike(tolerance)
        _log.info(
            "the prefix cache was tried: %d of %d prompt tokens were there, and in %d places "
            "log-probabilities differ by %.2g at most; %.2g would be rounding of %s",
            *(seen.n_cached_tokens, len(ids), seen.n_compared, seen.largest, tolerance),
            str(dtype).rpartition(".")[2],
        )
    except Exception:
        _log.exception("the prefix cache could not be tried")
        is_alike = False
    prefixes.clear()
    if not is_alike:
        _log.error("the prefix cache is off: with this model it changes answers")
        prefixes.turn_off()
        scheduler.reset()
    elif store is not None:
        prefixes.keep_on(store)


def open_batches(scheduler: Scheduler, n_tokens: int, dtype: mx.Dtype) -> None:
    """
    Let *scheduler* give its model as much at once as leaves every answer what it is alone.

    Args:
        scheduler: without any request.
        n_tokens: how many tokens there are.
        dtype: what logits are computed as.

    Raises:
        NoAnswer: the model can't even answer alone.
    """
    chance = random.Random(0)
    lengths = BATCH_LENGTHS[: scheduler.max_rows]
    prompts = [chance.choices(range(n_tokens), k=length) for length in lengths]
    alone = [_fresh_answers(scheduler, [ids])[0] for ids in prompts]
    tolerance = tolerance_for(dtype)
    for batching, allowed in ((Batching.PADDED, tolerance), (Batching.EVEN, GROSS * tolerance)):
        scheduler.batching = batching
        try:
            beside = _fresh_answers(scheduler, prompts)
        except Exception:
            _log.info("beside others, answers fail", exc_info=True)
            continue
        apart = max(_apart(*pair)[0] for pair in zip(alone, beside, strict=True))
        if apart <= allowed:
            break
        _log.info(
            "beside others, log-probabilities differ by %.2g, and not by %.2g", apart, allowed
        )
    else:
        scheduler.batching = Batching.ALONE
    scheduler.reset()
    if scheduler.batching is not Batching.PADDED:
        _log.warning("this model is no ordinary one: %s", scheduler.batching.value)


def trial_prompt(scheduler: Scheduler, prompt: list[int], n_tokens: int) -> list[int]:
    """
    Return ids to try a cache with: *prompt*, then any of the *n_tokens* that there are, always the same.

    They reach past the model's window, where it has one of a bearable size. Tokens by chance show a position
    that is off better than a text that repeats itself.
    """
    window = scheduler.window
    length = PREFIX_TOKENS + (int(window) if window <= MAX_WINDOW else 0)
    length = min(length, scheduler.context_length - N_COMPARED)
    chance = random.Random(0)
    return (prompt + chance.choices(range(n_tokens), k=length))[:length]


def compare(scheduler: Scheduler, ids: list[int]) -> Comparison:
    """
    Answer *ids* twice and compare what was said.

    Raises:
        Exception: whatever MLX raised.
    """
    cold, warm = (_answers(scheduler, [ids])[0] for _ in range(2))
    largest, n_compared = _apart(cold, warm)
    spent = warm[-1].spent
    assert spent is not None
    return Comparison(spent.n_cached_tokens, n_compared, largest)


def difference(one: TokenLogprob, other: TokenLogprob) -> float:
    """
    Return the largest difference of a token's log-probability between two reports of a place.

    A token that only one of them names is at most as likely as the last of the other's. Two likeliest tokens
    that are not the same are thereby a tie to within the difference.
    """
    these, those = _values(one), _values(other)
    if not all(map(math.isfinite, (*these.values(), *those.values()))):
        return math.inf
    found = [0.0]
    for here, there in ((these, those), (those, these)):
        least = min(there.values())
        found += [
            abs(value - there[token]) if token in there else value - least
            for token, value in here.items()
        ]
    return max(found)


def drain(scheduler: Scheduler) -> list[Delta]:
    """
    Step until there is no request any more; return all that was said.

    Raises:
        RuntimeError: a step of several broke, though each of them might go on alone.
    """
    deltas: list[Delta] = []
    while scheduler.tickets:
        output = scheduler.step()
        if output.retried:
            raise RuntimeError("a step broke")
        deltas += output.deltas
    return deltas


def _fresh_answers(scheduler: Scheduler, prompts: list[list[int]]) -> list[list[Delta]]:
    """Return the first words to all *prompts* at once of a scheduler that remembers nothing."""
    scheduler.reset()
    return _answers(scheduler, prompts, N_BESIDE)


def _answers(
    scheduler: Scheduler, prompts: list[list[int]], n_tokens: int = N_COMPARED
) -> list[list[Delta]]:
    """Return what is said to all *prompts* at once."""
    for i, ids in enumerate(prompts):
        job = Job(
            Tokens(tuple(ids)),
            Sampling(temperature=0.0),
            max_tokens=n_tokens,
            ignore_eos=True,
            top_logprobs=N_TOP,
        )
        scheduler.add(_TICKET - i, Prepared(ids), job)
    deltas = drain(scheduler)
    answers = [[d for d in deltas if d.ticket == _TICKET - i] for i in range(len(prompts))]
    if not all(answer and answer[-1].spent for answer in answers):
        raise NoAnswer
    return answers


def _apart(one: list[Delta], other: list[Delta]) -> tuple[float, int]:
    """Return the largest difference between two answers to a prompt, and in how many places it was sought."""
    largest, n_compared = 0.0, 0
    for here, there in zip(_places(one), _places(other), strict=True):
        largest = max(largest, difference(here, there))
        n_compared += 1
        if here.chosen.id != there.chosen.id:  # from here on they answer to different texts
            break
    return largest, n_compared


def _places(deltas: list[Delta]) -> list[TokenLogprob]:
    return [each for delta in deltas for each in delta.logprobs]


def _values(place: TokenLogprob) -> dict[int, float]:
    """Return the log-probabilities that are told of a place, by token."""
    return {
        each.id: math.nan if each.logprob is None else each.logprob
        for each in (*place.top, place.chosen)
    }
