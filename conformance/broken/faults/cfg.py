"""Options that are taken and forgotten, or understood in another way."""

import os
from collections.abc import Sequence
from typing import ClassVar

from conformance.broken.fault import breaks
from conformance.broken.miniature import Miniature
from conformance.broken.options import LEVELS, Option


class FlagIgnored(Option):
    """Its flag may be given, and nobody looks at it."""

    def text(self, given: str | None) -> str:
        return super().text(None)


class VariableIgnored(Option):
    """Its variable may be set, and nobody looks at it."""

    def text(self, given: str | None) -> str:
        return given or self.default


class VariableFirst(Option):
    """Its variable beats its flag."""

    def text(self, given: str | None) -> str:
        return os.environ.get(self.variable) or given or self.default


class Unexplained(Option):
    """Its variable is kept secret."""

    @property
    def help(self) -> str:
        return "see the source"


class Forgetful(Miniature):
    """Takes one option in a way of its own."""

    variable: ClassVar[str]
    kind: ClassVar[type[Option]]

    @classmethod
    def option_table(cls) -> Sequence[Option]:
        return [
            cls.kind(**vars(each)) if each.variable == cls.variable else each
            for each in super().option_table()
        ]


# An option that isn't looked at takes bad values as well, which is what CFG-20 is about.


@breaks("CFG-1")
class ModelPathFlagIgnored(Forgetful):
    variable, kind = "MODEL_PATH", FlagIgnored


@breaks("CFG-2", also={"CFG-20"})
class ModelTypeFlagIgnored(Forgetful):
    variable, kind = "MODEL_TYPE", FlagIgnored


@breaks("CFG-3", also={"CFG-19", "CFG-20"})
class ContextLengthFlagIgnored(Forgetful):
    variable, kind = "CONTEXT_LENGTH", FlagIgnored


@breaks("CFG-4", also={"CFG-19", "CFG-20", "WARM-3"})
class MlxWarmupFlagIgnored(Forgetful):
    variable, kind = "MLX_WARMUP", FlagIgnored


@breaks("CFG-5", also={"CFG-20"})
class MaxConcurrencyFlagIgnored(Forgetful):
    variable, kind = "MAX_CONCURRENCY", FlagIgnored


@breaks("CFG-6", also={"CFG-20"})
class QueueTimeoutFlagIgnored(Forgetful):
    variable, kind = "QUEUE_TIMEOUT", FlagIgnored


@breaks("CFG-7", also={"CFG-20"})
class ServerPortFlagIgnored(Forgetful):
    variable, kind = "SERVER_PORT", FlagIgnored
    port_by_variable = True


@breaks("CFG-8", also={"CFG-20"})
class LogLevelFlagIgnored(Forgetful):
    variable, kind = "LOG_LEVEL", FlagIgnored


@breaks("CFG-9")
class ModelPathVariableIgnored(Forgetful):
    variable, kind = "MODEL_PATH", VariableIgnored


@breaks("CFG-10", also={"CFG-20"})
class ModelTypeVariableIgnored(Forgetful):
    variable, kind = "MODEL_TYPE", VariableIgnored


@breaks("CFG-11", also={"CFG-20", "DISC-14"})
class ContextLengthVariableIgnored(Forgetful):
    variable, kind = "CONTEXT_LENGTH", VariableIgnored


@breaks("CFG-12", also={"CFG-20", "WARM-2"})
class MlxWarmupVariableIgnored(Forgetful):
    variable, kind = "MLX_WARMUP", VariableIgnored


@breaks("CFG-13")
class ServerHostVariableIgnored(Forgetful):
    variable, kind = "SERVER_HOST", VariableIgnored


@breaks("CFG-14", also={"CFG-20"})
class ServerPortVariableIgnored(Forgetful):
    variable, kind = "SERVER_PORT", VariableIgnored


@breaks("CFG-15", also={"CFG-20", "QUEUE-1", "QUEUE-4"})
class MaxConcurrencyVariableIgnored(Forgetful):
    variable, kind = "MAX_CONCURRENCY", VariableIgnored


@breaks("CFG-16", also={"CFG-20", "QUEUE-2"})
class QueueTimeoutVariableIgnored(Forgetful):
    variable, kind = "QUEUE_TIMEOUT", VariableIgnored


@breaks("CFG-17", also={"CFG-20", "QUEUE-3", "QUEUE-4"})
class QueueSizeVariableIgnored(Forgetful):
    variable, kind = "QUEUE_SIZE", VariableIgnored


@breaks("CFG-18", also={"CFG-20"})
class LogLevelVariableIgnored(Forgetful):
    variable, kind = "LOG_LEVEL", VariableIgnored


@breaks("CFG-5", also={"CFG-15"})
class ConcurrencyIsAlwaysOne(Miniature):
    def has_permit(self) -> bool:
        return self.n_generating < 1


@breaks("CFG-19")
class VariableBeatsFlag(Miniature):
    @classmethod
    def option_table(cls) -> Sequence[Option]:
        return [VariableFirst(**vars(each)) for each in super().option_table()]


@breaks("CFG-19")
class HelpNamesNoVariables(Miniature):
    @classmethod
    def option_table(cls) -> Sequence[Option]:
        return [Unexplained(**vars(each)) for each in super().option_table()]


class AnyLevel(Option):
    """Whatever isn't a level means INFO."""

    def text(self, given: str | None) -> str:
        found = super().text(given)
        return found if found in LEVELS else "INFO"


@breaks("CFG-20")
class BadLevelMeansInfo(Forgetful):
    variable, kind = "LOG_LEVEL", AnyLevel
