"""Tokens and seconds of a request, whose answers may be several."""

from service.openai.usage import Usage
from service.protocol import Delta, Spent


def last(n_tokens: int, n_reasoning_tokens: int = 0, spent: Spent | None = None) -> Delta:
    """Return the last delta of an answer of *n_tokens*."""
    return Delta(1, "", n_tokens, "stop", n_reasoning_tokens=n_reasoning_tokens, spent=spent)


def test_counts_of_one_answer() -> None:
    """What its last delta tells, and the sum."""
    usage = Usage(7)
    usage.add(0, last(5, 2, Spent(3, 0.0, 0.0, 0.0)))

    assert {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    } == usage.counts()


def test_counts_of_several_answers() -> None:
    """Answers add up; the prompt is one, and only what none of them had to read was known before."""
    usage = Usage(7, n_answers=2)
    usage.add(1, last(5, 2, Spent(6, 0.0, 0.0, 0.0)))
    usage.add(0, last(4, 1, Spent(2, 0.0, 0.0, 0.0)))
    counts = usage.counts()

    assert (7, 9, 16) == tuple(counts.values())[:3]
    assert (2, 3) == (usage.n_cached_tokens, usage.n_reasoning_tokens)


def test_cached_tokens_of_several_prompts() -> None:
    """Each prompt counts with what none of its answers had to read."""
    usage = Usage(20, n_answers=4, n_prompts=2)
    for index, n_cached in enumerate((1, 5, 8, 7)):
        usage.add(index, last(1, spent=Spent(n_cached, 0.0, 0.0, 0.0)))

    assert 1 + 7 == usage.n_cached_tokens


def test_completeness() -> None:
    """All answers have ended when each has been added, in whatever order."""
    usage = Usage(7, n_answers=2)
    seen = [usage.is_complete]
    for index in (1, 0):
        usage.add(index, last(1))
        seen.append(usage.is_complete)

    assert [False, False, True] == seen


def test_times_are_the_longest() -> None:
    """Answers run side by side: the slowest counts, and the wait for the permit comes first."""
    usage = Usage(7, n_answers=2, waited_s=1.0)
    usage.add(0, last(1, spent=Spent(0, 0.5, 0.25, 3.0)))
    usage.add(1, last(1, spent=Spent(0, 0.25, 0.75, 2.0)))

    assert {"queue_s": 1.5, "prefill_s": 0.75, "decode_s": 3.0} == usage.timings()


def test_times_are_readable() -> None:
    """Microseconds are as exact as a clock can be read."""
    usage = Usage(7)
    usage.add(0, last(1, spent=Spent(0, 0.1 + 0.2, 1 / 3, 1e-9)))

    assert {"queue_s": 0.3, "prefill_s": 0.333333, "decode_s": 0.0} == usage.timings()


def test_nothing_known_yet() -> None:
    """Before an answer ends there is nothing but the prompt."""
    usage = Usage(7, waited_s=0.5)

    assert (7, 0, 7) == tuple(usage.counts().values())[:3]
    assert {"queue_s": 0.5, "prefill_s": 0.0, "decode_s": 0.0} == usage.timings()
    assert {"usage": usage.counts(), "timings": usage.timings()} == usage.as_body()
