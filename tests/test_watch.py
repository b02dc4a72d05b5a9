"""Progress is looked for where the work is, whatever else is said meanwhile."""

import pytest

from service.fleet.watch import Stall, Watch
from service.protocol import Heartbeat


class Watched:
    """A watch and its clock, which ticks four times a second as the supervisor's does."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.watch = Watch(lambda: self.now_s)
        self.n_turns = self.n_texts = 0
        self.has_texts = self.has_grammars = False
        self.is_alive = True
        self.watch.hear(self._beat())

    def _beat(self) -> Heartbeat:
        return Heartbeat(
            self.n_turns, self.n_texts, self.has_texts, 0, self.has_grammars, memory_bytes=0
        )

    def after(
        self,
        seconds: float,
        *,
        texts: bool = False,
        turns: bool = False,
        per_look: tuple[int, int] = (0, 0),
        patience: float = 1.0,
    ) -> Stall:
        """Look on for *seconds* while so many turns and texts are done between two looks."""
        stall = Stall(0.0, "")
        for _ in range(round(seconds * 4)):
            self.now_s += 0.25
            self.n_turns += per_look[0]
            self.n_texts += per_look[1]
            if self.is_alive:
                self.watch.hear(self._beat())
            stall = self.watch.look(owes_texts=texts, owes_turns=turns, patience=patience)
        return stall


def test_idle_engine_is_none_that_stalls() -> None:
    """It has nothing to do, and says so."""
    assert 0 == Watched().after(1000).seconds


@pytest.mark.parametrize(
    ("texts", "turns", "per_look", "what"),
    [
        (True, False, (0, 0), "it made no prompt"),
        (True, True, (1, 0), "it made no prompt"),
        (False, True, (0, 0), "it took no step"),
        (True, True, (0, 1), "it took no step"),
    ],
)
def test_one_worker_hangs_while_the_other_works(
    texts: bool, turns: bool, per_look: tuple[int, int], what: str
) -> None:
    """What others get is no progress for whoever waits for the one that hangs."""
    stall = Watched().after(30, texts=texts, turns=turns, per_look=per_look)

    assert what == stall.what
    assert 29.5 <= stall.seconds <= 30


def test_client_that_comes_again_and_again_is_no_progress() -> None:
    """The worker hangs on a prompt whose client is gone; nobody waits for it between two tries."""
    watched = Watched()
    watched.has_texts = True
    for _ in range(5):
        watched.after(19, texts=True, per_look=(1, 0))
        stall = watched.after(1, texts=False, per_look=(1, 0))

    assert Stall(100.0, "it made no prompt") == stall


def test_slow_but_steady_engine_is_none_that_stalls() -> None:
    """A step now and then is enough."""
    watched = Watched()
    for _ in range(10):
        assert watched.after(20, texts=True, turns=True).seconds <= 20
        watched.after(0.25, texts=True, turns=True, per_look=(1, 1))


def test_engine_that_says_nothing_stalls_though_idle() -> None:
    """It was stopped, or never lets go of the interpreter."""
    watched = Watched()
    watched.is_alive = False

    assert Stall(12.0, "it said nothing") == watched.after(12)


def test_engine_that_starts_has_time() -> None:
    """Before its first word there is nothing to count; how long that may take is told elsewhere."""
    watch = Watch(iter([0.0, 0.5, 1.0, 1.5]).__next__)

    assert [0, 0] == [watch.look(owes_texts=True, owes_turns=True).seconds for _ in range(2)]


def test_first_steps_have_patience() -> None:
    """They compile kernels; a prompt needs none of that."""
    assert 10 == Watched().after(40, turns=True, patience=4).seconds
    assert 40 == Watched().after(40, texts=True, patience=4).seconds


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """Both processes may have been stopped together, as by a debugger."""
    watched = Watched()
    watched.after(5, turns=True)
    watched.now_s += 3600

    assert watched.watch.look(owes_texts=False, owes_turns=True).seconds <= 6


def test_grammar_that_never_compiles_is_no_progress() -> None:
    """Whatever else is done meanwhile."""
    watched = Watched()
    watched.has_grammars = True
    stall = watched.after(12, texts=True, turns=True, per_look=(1, 1))

    assert Stall(12.0, "it compiled no grammar") == stall
