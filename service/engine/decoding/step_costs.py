"""What decode steps cost, learnt from the steps before, and so which guesses are worth checking."""

from __future__ import annotations

INERTIA = 0.8  # of an average: about the last five measurements count (taste)
MIN_GAIN = 1.1  # a free guess must promise so much, since what it promises is uncertain (measured)
N_TRUSTED = 64  # steps with guesses, until a step without one is timed again (taste)
ADVANCE_STEPS = 8.0  # what a draft model may lose before it rests, in steps without it (measured)
MAX_BUDGET_STEPS = (
    64.0  # what it may save up: a text that can't be guessed any more is seen soon (taste)
)
SAVED_STEPS = (
    1 / 64
)  # put by in each step without it: what trying again may cost, as a part of all time


def mixed(old: float, new: float) -> float:
    """Return an average that follows what is new slowly."""
    return INERTIA * old + (1 - INERTIA) * new


class DraftBudget:
    """
    What a draft model may cost, in steps without it: an advance, and what it has saved.

    Once that is used up it rests, until the advance has been put by out of the steps without it, a small part
    of each. So it never costs more than that part for long, whatever the text, the batch and the machine.

    Attributes:
        speedup: how many times faster the steps with it are, of late; 0: none were made.
    """

    def __init__(self) -> None:
        self.speedup = 0.0
        self._steps = ADVANCE_STEPS
        self._is_used_up = False

    @property
    def steps(self) -> float:
        """What it may cost now; 0: it rests."""
        return 0.0 if self._is_used_up else self._steps

    def put_by(self) -> None:
        """Count a step without it."""
        if self._steps < ADVANCE_STEPS:
            self._steps += SAVED_STEPS
        else:
            self._is_used_up = False

    def book(self, n_steps: float) -> None:
        """Count *n_steps* that it has saved, or cost where they are negative."""
        self._steps = max(min(self._steps + n_steps, MAX_BUDGET_STEPS), -ADVANCE_STEPS)
        if self._steps <= 0:
            self._is_used_up = True
            self.speedup = 0.0


class StepCosts:
    """
    How long decode steps take; says whether a guess is worth its positions.

    Attributes:
        draft_budget: what the draft model may cost.
        is_disturbed: prompts are prefilled between the steps: how long these take says nothing then.
    """

    def __init__(self) -> None:
        self.draft_budget = DraftBudget()
        self.is_disturbed = False
        self._step_s: dict[int, float] = {}
        self._position_s = 0.0
        self._n_guessed = 0

    def step_s(self, n_rows: int) -> float | None:
        """Return how long a step of *n_rows* without guesses takes; None: one should be timed."""
        is_trusted = self._n_guessed < N_TRUSTED or self.is_disturbed
        return self._step_s.get(n_rows) if is_trusted else None

    def is_worth_it(self, n_rows: int, n_positions: int, n_expected: float) -> bool:
        """Whether *n_expected* tokens more, guessed for free, are worth *n_positions* more positions."""
        step_s = self.step_s(n_rows)
        if step_s is None:
            return False
        speedup = (1 + n_expected / n_rows) / (1 + n_positions * self._position_s / step_s)
        return speedup > max(MIN_GAIN, self.draft_budget.speedup)

    def learn(self, took_s: float, n_rows: int, n_positions: int) -> None:
        """Take in what a step of *n_rows* took that had *n_positions* beside each row's own."""
        if not n_positions:
            if not self.is_disturbed:
                self._step_s[n_rows] = mixed(self._step_s.get(n_rows, took_s), took_s)
                self._n_guessed = 0
            return
        self._n_guessed += 1
        step_s = self._step_s.get(n_rows)
        if step_s is not None:
            position_s = max(took_s - step_s, 0.0) / n_positions
            self._position_s = mixed(self._position_s or position_s, position_s)

    def charge(self, n_rows: int, took_s: float) -> None:
        """Book what a draft model took to read what it has to know."""
        self.draft_budget.book(-took_s / self._step_s[n_rows])

    def reward(self, n_rows: int, took_s: float, n_tokens: int) -> None:
        """Book a step of *n_rows* with a draft model's guesses, all of it, that gave *n_tokens*."""
        n_steps = n_tokens / n_rows
        n_spent = took_s / self._step_s[n_rows]
        budget = self.draft_budget
        budget.speedup = mixed(budget.speedup or n_steps / n_spent, n_steps / n_spent)
        budget.book(n_steps - n_spent)
