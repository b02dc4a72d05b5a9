"""Which model a request means by the name it gives, or by giving none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.errors import ModelNotFound
from service.protocol import ModelCard


@dataclass(frozen=True, slots=True)
class Names:
    """
    The names that models go by.

    Attributes:
        aliases: further names, each with one that its model has already.
        takes_any: where one model is served, every name means that one.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    takes_any: bool = False

    def resolve(self, name: str | None, cards: Sequence[ModelCard]) -> ModelCard:
        """
        Return the one card that *name* stands for: an id, an alias, an id's last part, or a family of one.

        Args:
            name: as a request gives it; None: it gives none, and means the only model.
            cards: of the models that are served.

        Raises:
            ModelNotFound: none, or one that several share; the message names those that are served.
        """
        if len(cards) == 1 and (name is None or self.takes_any):
            return cards[0]
        found = None if name is None else self._named(name, cards)
        if found is None:
            raise ModelNotFound(self._refusal(name, cards), param="model")
        return found

    def of(self, card: ModelCard, cards: Sequence[ModelCard]) -> list[str]:
        """Return the aliases that lead to *card*, in the order in which they were set."""
        found = (alias for alias in self.aliases if self._named(alias, cards) is card)
        return [alias for alias in found if alias != card.id]

    def _named(self, name: str, cards: Sequence[ModelCard]) -> ModelCard | None:
        by_id = [card for card in cards if card.id == name]
        if by_id:
            return by_id[0]
        name = self.aliases.get(name, name)
        for found in (
            [card for card in cards if card.id == name],
            [card for card in cards if card.id.rpartition("/")[2] == name],
            [card for card in cards if card.family == name],
        ):
            if len(found) == 1:
                return found[0]
        return None

    def _refusal(self, name: str | None, cards: Sequence[ModelCard]) -> str:
        wrong = (
            "A model must be named." if name is None else "No model of that name is served here."
        )
        names = [known for card in cards for known in (card.id, *self.of(card, cards))]
        return f"{wrong} Served: {', '.join(names)}." if names else wrong
