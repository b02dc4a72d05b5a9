"""
What each option's effect is seen by, and how it is looked for.

An option counts as understood when the server is another with it than without. The guide's own
command turns many options at once, and so does a trial first, since that is one start for all of
them. What can't be seen there is tried again alone, so that no option pays for another.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

from conformance.catalogue import Requirement
from conformance.client import NoAnswer
from conformance.crowd import pace_of
from conformance.launch import FLAGS, Launched, Launcher, Turned
from conformance.queueing import (
    ONE,
    filled,
    n_at_once,
    size_problem,
    timeout_problem,
    waiting,
)
from conformance.trials import started
from conformance.verdicts import NotTested, Violation, check, inapplicable

LOGGED_WITHIN_S = 0.3
HALF = "half"


class Seen(NamedTuple):
    """
    What an option's effect is seen by.

    Attributes:
        launched: the instance with the option turned.
        value: what it is turned to.
        usual: the instance with nothing turned.
    """

    launched: Launched
    value: str
    usual: Launched


class Effect(NamedTuple):
    """
    What an option is turned to, and how that shows.

    Attributes:
        problem: says what of the value can't be seen; empty where all can.
        value: what it is turned to; `HALF` stands for half of the usual context length.
        contrary: a value with the contrary effect, tried where the usual instance hasn't got it.
        needs: variables that are turned with it, since nothing could be seen without.
    """

    problem: Callable[[Seen], str]
    value: str
    contrary: str = ""
    needs: Mapping[str, str] = {}


def shown_length(seen: Seen) -> str:
    """Look at the models' context length."""
    shown = [model.get("context_length") for model in seen.launched.server.models()]
    return "" if int(seen.value) in shown else f"/v1/models shows {shown}"


def shown_warmup(seen: Seen) -> str:
    """Look at the health's warm-up."""
    health = seen.launched.server.get("/health").fields()
    is_enabled = health.get("warmup_enabled")
    if health.get("model_status") == "initialized" and is_enabled is None:
        inapplicable("this kind of model has no warm-up")
    return "" if is_enabled == (seen.value == "true") else f"warmup_enabled is {is_enabled}"


def streams_overlap(seen: Seen) -> str:
    """Look at how many of a few streams speak at once."""
    n = n_at_once(seen.launched.server, pace_of(seen.usual.server))
    return "" if (n > 1) == (seen.value != "1") else f"of a few streams {n} spoke at once"


def waiting_ends(seen: Seen) -> str:
    """Look at when those are refused who have to wait."""
    pace, timeout_s = pace_of(seen.usual.server), float(seen.value)
    return timeout_problem(waiting(seen.launched.server, pace, timeout_s), pace, timeout_s)


def places_are_few(seen: Seen) -> str:
    """Look at how many may wait."""
    pace, n_places = pace_of(seen.usual.server), int(seen.value)
    return size_problem(filled(seen.launched.server, pace, n_places), n_places)


def requests_are_logged(seen: Seen) -> str:
    """Look for a request's id in the log."""
    given = f"level-{uuid.uuid4()}"
    seen.launched.server.get("/v1/models", [("X-Request-ID", given)])
    is_logged = bool(seen.launched.log.wait_for(given, within_s=LOGGED_WITHIN_S))
    words = "is" if is_logged else "isn't"
    return "" if is_logged == (seen.value == "INFO") else f"a request {words} in the log"


def answers_there(seen: Seen) -> str:
    """Look for nothing: an instance is always asked at the port that it was told."""
    return ""


EFFECTS = {
    "CONTEXT_LENGTH": Effect(shown_length, HALF),
    "MLX_WARMUP": Effect(shown_warmup, "false", contrary="true"),
    "MAX_CONCURRENCY": Effect(streams_overlap, "1", contrary="2"),
    "QUEUE_TIMEOUT": Effect(waiting_ends, "1", needs=ONE),
    "SERVER_PORT": Effect(answers_there, "{port}"),
    "LOG_LEVEL": Effect(requests_are_logged, "ERROR", contrary="INFO"),
}
SIZE = Effect(places_are_few, "1", needs=ONE)


def by_flag(values: Mapping[str, str]) -> Turned:
    """Return the options in *values*, turned by their flags."""
    return Turned(flags={FLAGS[name]: value for name, value in values.items()})


def by_variable(values: Mapping[str, str]) -> Turned:
    """Return the options in *values*, turned by their variables."""
    return Turned(environment=values)


class Trial:
    """
    One requirement about options, and the instances in which they are looked for.

    Args:
        way: how options are turned, by flags or by variables.
        usual: the instance with nothing turned.
    """

    def __init__(
        self,
        demand: Requirement,
        way: Callable[[Mapping[str, str]], Turned],
        launcher: Launcher,
        usual: Launched,
    ) -> None:
        self._demand = demand
        self._way = way
        self._launcher = launcher
        self._usual = usual

    def check(self, variable: str) -> None:
        """
        Demand an option's effect, with all options turned or else alone.

        Raises:
            Violation: it isn't there, or it is there without the option, too.
        """
        effect = EFFECTS[variable]
        values = {name: self._value(each) for name, each in EFFECTS.items()}
        try:
            self._look(self._way(values), values[variable], effect)
        except (Violation, NotTested, NoAnswer):
            self.check_alone(variable, effect)
        if effect.contrary:
            self._check_contrary(variable, effect)

    def check_alone(self, variable: str, effect: Effect) -> None:
        """
        Demand an option's effect with nothing else turned than what it needs.

        Raises:
            Violation: it isn't there.
        """
        value = self._value(effect)
        turned = self._way({variable: value})
        needed = dict(effect.needs) | dict(turned.environment)
        self._look(turned._replace(environment=needed), value, effect)

    def _check_contrary(self, variable: str, effect: Effect) -> None:
        """Demand that another value has another effect, unless no value has that already."""
        if effect.problem(Seen(self._usual, effect.contrary, self._usual)):
            self._look(self._way({variable: effect.contrary}), effect.contrary, effect)

    def _look(self, turned: Turned, value: str, effect: Effect) -> None:
        launched = started(self._demand, self._launcher, turned)
        problem = effect.problem(Seen(launched, value, self._usual))
        check(self._demand, not problem, f"with {turned}: {problem}")

    def _value(self, effect: Effect) -> str:
        half = str(self._launcher.context_length // 2)
        return half if effect.value == HALF else effect.value
