"""
Which tokens to guess before the model says them, for the rows of one batch.

What a sequence said before is looked through first, as that is free; where nothing is found, a draft model is
asked, if there is one and its budget allows it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from collections.abc import Sequence as Several

from service.engine.decoding.batch import Advance, Batch
from service.engine.decoding.counts import Counts
from service.engine.decoding.drafter import Drafter
from service.engine.decoding.prompt_lookup import PromptLookup
from service.engine.decoding.sequence import Sequence
from service.engine.decoding.step_costs import StepCosts


class Speculation:
    """
    Steps a batch, with guesses where they are worth it.

    Args:
        batch: the rows.
        max_tokens: most tokens of a guess, at least 1.
        costs: what steps take; shared by all batches of a model.
        drafter: guesses where nothing can be looked up; None: nobody does.
        counts: where guesses are counted.
    """

    def __init__(
        self,
        batch: Batch,
        max_tokens: int,
        costs: StepCosts,
        drafter: Drafter | None,
        counts: Counts,
    ) -> None:
        self._batch = batch
        self._max_tokens = max_tokens
        self._costs = costs
        self._drafter = drafter
        self._counts = counts
        self._lookups: dict[Sequence, PromptLookup] = {}
        self._began_s = 0.0
        self._drafting_s, self._has_waited = 0.0, False

    def step(self) -> list[Advance]:
        """Advance each row by one token, or by more where a guess was right."""
        n_rows = len(self._batch.sequences)
        self._began_s = time.perf_counter()
        self._drafting_s, self._has_waited = 0.0, False
        was_ahead = self._batch.is_ahead
        guesses = self._looked_up() or self._drafted()
        n_positions = n_rows * max(map(len, guesses), default=0)
        advances = self._batch.check(guesses) if n_positions else self._batch.decode()
        took_s = time.perf_counter() - self._began_s
        if n_positions:
            self._learn(guesses, advances)
        if n_positions or (was_ahead and not self._has_waited):
            self._costs.learn(took_s, n_rows, n_positions)
        if self._drafting_s:
            n_fed = sum(each.n_fed for each in advances)
            self._costs.reward(n_rows, self._drafting_s + took_s, n_fed)
        return advances

    def leave(self, leaving: Collection[Sequence]) -> None:
        """Forget all *leaving* sequences."""
        self._lookups = {each: one for each, one in self._lookups.items() if each not in leaving}
        if self._drafter is not None:
            self._drafter.keep(self._batch.sequences)

    def _looked_up(self) -> list[list[int]]:
        """Return guesses for all rows from their own tokens; none at all where they aren't worth it."""
        found = [self._lookup(each) for each in self._batch.sequences]
        if not any(len(guess) > 1 for guess in found):
            return []
        rates = [self._lookups[each].acceptance.rate for each in self._batch.sequences]
        expected = sum(
            rate * max(len(guess) - 1, 0) for rate, guess in zip(rates, found, strict=True)
        )
        n_positions = len(found) * (max(map(len, found)) - 1)
        if not self._costs.is_worth_it(len(found), n_positions, expected):
            return []
        for place, token in enumerate(self._drawn()):
            if found[place] and found[place][0] != token:
                self._lookups[self._batch.sequences[place]].acceptance.learn(1, 0)
                found[place] = []
        guesses = [guess[1:] for guess in found]
        return guesses if any(guesses) else []

    def _lookup(self, sequence: Sequence) -> list[int]:
        """Return a guess that begins with the token drawn last, which isn't known yet; mostly empty."""
        lookup = self._lookups.setdefault(sequence, PromptLookup(self._max_tokens))
        if not sequence.sampling.can_look_ahead:
            return []
        return lookup.guess(sequence.cached_tokens)

    def _drafted(self) -> list[list[int]]:
        """Return the draft model's guesses for all rows; none at all where it isn't to be asked."""
        sequences = self._batch.sequences
        n_rows = len(sequences)
        budget, step_s = self._costs.draft_budget, self._costs.step_s(n_rows)
        if self._drafter is None or step_s is None or not budget.steps:
            budget.put_by()
            return []
        if not self._drafter.follow(sequences, budget.steps * step_s):
            budget.speedup = 0.0  # what it gained with other rows says nothing of these
            budget.put_by()
            return []
        drawn = self._drawn()
        self._costs.charge(n_rows, self._drafter.prefill(step_s))
        began_s = time.perf_counter()
        guesses = self._drafter.guess(sequences, drawn)
        self._began_s = time.perf_counter()
        if not any(guesses):
            return []
        self._drafting_s = self._began_s - began_s
        return guesses

    def _drawn(self) -> list[int]:
        """Return what each row has drawn last; waits for it, so that what is timed begins there."""
        drawn = self._batch.drawn()
        self._began_s = time.perf_counter()
        self._has_waited = True
        return drawn

    def _learn(self, guesses: Several[list[int]], advances: Iterable[Advance]) -> None:
        """Tell who guessed how many tokens of each guess were accepted."""
        n_accepted = [each.n_fed - 1 for each in advances]
        self._counts.n_proposed_tokens += sum(map(len, guesses))
        self._counts.n_accepted_tokens += sum(n_accepted)
        if self._drafting_s:
            assert self._drafter is not None
            self._drafter.settle(sum(map(len, guesses)), sum(n_accepted))
            return
        for sequence, guess, n in zip(self._batch.sequences, guesses, n_accepted, strict=True):
            if guess:
                self._lookups[sequence].acceptance.learn(len(guess), n)
