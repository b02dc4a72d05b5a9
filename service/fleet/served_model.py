"""One model that can be asked for: what keeps its engine, who may use it, and for how long it stays."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.fleet.admission import Admission
from service.fleet.lifecycle import State
from service.fleet.supervisor import Supervisor
from service.protocol import ModelCard

N_QUESTIONS = 2  # one that the tokenizer works on, and one that it goes on with
_ENDING = {State.DRAINING, State.STOPPED}


@dataclass(frozen=True, slots=True)
class Stay:
    """
    When a model is in memory.

    Attributes:
        is_on_demand: it is loaded by the first request that asks for it, and not at the start.
        is_pinned: it is never unloaded to make room for another.
        idle_s: seconds without a request after which it is unloaded; None: it stays.
        memory_bytes: most that its engine may hold, as it is planned; 0: it is no part of a plan.
    """

    is_on_demand: bool = False
    is_pinned: bool = False
    idle_s: float | None = None
    memory_bytes: int = 0


class ServedModel:
    """
    A model, loaded or not.

    Args:
        supervisor: the keeper of its engine.
        admission: the permits to generate.
        questions: the permits to ask about tokens.
        stay: when it is in memory.
        card_on_disk: what its files say of it before it was ever loaded; None: nobody asks for it before.

    Attributes:
        stay: when it is in memory.
        n_users: requests that need it loaded now, waiting ones included.
        last_used_s: when the last of them left, by the monotonic clock.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        admission: Admission,
        questions: Admission,
        stay: Stay = Stay(),
        card_on_disk: ModelCard | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.lifecycle = supervisor.lifecycle
        self.admission = admission
        self.questions = questions
        self.stay = stay
        self.n_users = 0
        self.last_used_s = 0.0
        self._card_on_disk = card_on_disk

    @property
    def id(self) -> str | None:
        """The name that it is served under; None: it is known when it is loaded."""
        return None if self.card is None else self.card.id

    @property
    def askable_card(self) -> ModelCard | None:
        """What it says of itself, if requests may name it now; None: they would be refused."""
        if self.lifecycle.healthy_card is not None:
            return self.lifecycle.healthy_card
        if self.stay.is_on_demand and self.lifecycle.state not in _ENDING:
            return self.card
        return None

    @property
    def card(self) -> ModelCard | None:
        """What it said of itself, when it was loaded last, or what its files say."""
        return self.lifecycle.card or self._card_on_disk

    def pin(self) -> None:
        """Let no other model take its room."""
        self.stay = replace(self.stay, is_pinned=True)

    def unpin(self) -> None:
        """Let others take its room, unless it is to be up all the time."""
        self.stay = replace(self.stay, is_pinned=False)

    @property
    def n_in_use(self) -> int:
        """Requests that need it loaded now, but for those that `hold` keeps waiting."""
        return self.n_users - self.admission.n_held - self.questions.n_held

    def hold(self) -> None:
        """Let no more requests begin, so that it can make room for another model."""
        self.admission.hold()
        self.questions.hold()

    def resume(self) -> None:
        """Let requests begin again."""
        self.admission.resume()
        self.questions.resume()

    @property
    def stays(self) -> bool:
        """Whether it may not be unloaded to make room."""
        return self.stay.is_pinned or not self.stay.is_on_demand

    @property
    def memory_bytes(self) -> int:
        """What it takes while it is loaded, as planned; or what its process was seen to hold, if more."""
        seen = self.supervisor.memory_bytes if self.has_engine else 0
        return max(self.stay.memory_bytes, seen)

    @property
    def has_engine(self) -> bool:
        """Whether it takes memory, or may do so at any moment."""
        is_down = self.lifecycle.state in {State.UNLOADED, State.STOPPED}
        return not (is_down or self.lifecycle.is_given_up)

    @property
    def is_missed(self) -> bool:
        """Whether it should be up, and is not."""
        return not self.stay.is_on_demand and self.lifecycle.healthy_card is None
