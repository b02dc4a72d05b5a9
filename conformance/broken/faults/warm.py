"""Wrong words about warm-up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conformance.broken.fault import breaks
from conformance.broken.miniature import Miniature
from conformance.broken.options import Option


class Switch(Option):
    """A flag that is on when it is there, whatever stands behind it."""

    def text(self, given: str | None) -> str:
        return super().text("true" if given else None)


@breaks("WARM-1")
class WarmupIsOffByDefault(Miniature):
    @classmethod
    def option_table(cls) -> Sequence[Option]:
        return [
            replace(each, default="false") if each.name == "mlx_warmup" else each
            for each in super().option_table()
        ]


@breaks("WARM-2", also={"WARM-3"})
class CompletedThoughTurnedOff(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        found = super().health_loaded()
        is_off = not self.options["mlx_warmup"]
        return found | {"warmup_completed": found["warmup_completed"] or is_off}


@breaks("WARM-3", also={"CFG-4", "CFG-19", "CFG-20"})
class WarmupFlagIsASwitch(Miniature):
    @classmethod
    def option_table(cls) -> Sequence[Option]:
        return [
            Switch(**vars(each)) if each.name == "mlx_warmup" else each
            for each in super().option_table()
        ]


@breaks("WARM-7")
class EveryTypeWarmsUp(Miniature):
    def warms_up(self) -> bool | None:
        return bool(self.options["mlx_warmup"])


@breaks("WARM-8", also={"HEALTH-5", "PAT-4", "SHAPE-3"})
class CompletedThoughUnknown(Miniature):
    def health_loaded(self) -> dict[str, Any]:
        found = super().health_loaded()
        unknown = {"warmup_enabled": None, "warmup_completed": True}
        return found | (unknown if found["warmup_enabled"] else {})


@breaks("WARM-8", also={"HEALTH-10", "SHAPE-3"})
class CompletedBeforeLoaded(Miniature):
    def health_loading(self) -> dict[str, Any]:
        return super().health_loading() | {"warmup_completed": self.warms_up() or None}
