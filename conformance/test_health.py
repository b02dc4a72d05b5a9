"""HEALTH: `GET /health`, on a running server and, with --launch, from its first moment."""

import functools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import pytest

from conformance.answers import LONG_TASK
from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Server
from conformance.lag import Lag
from conformance.openai_shapes import envelope_problem
from conformance.start import UNREADY, Moment, Start, is_ready
from conformance.verdicts import check, inapplicable, not_tested, requirement

N_TOKENS = (96, 288, 768)
N_TELLING = 2
N_LAGS = 5
IGNORING_THE_END = {"ignore_eos": True}  # which many servers know
MIDST = (0.2, 0.8)
MEASURABLE_S = 0.1
QUICK_S = 0.5
ANSWERS_WITHIN_S = 5.0
# How many chats at once, and what is asked of each.
LOADS: dict[str, tuple[int, Mapping[str, object]]] = {
    "streamed": (3, {"stream": True}),
    "whole": (1, {}),
}
STEP_S = 0.01
STATUSES = ("initialized", "uninitialized")
NULL_WHEN_NOT_READY = ("model_id", "warmup_enabled", "warmup_completed")


def is_initialized(health: Exchange) -> bool:
    """Whether the model is said to be loaded."""
    return health.fields().get("model_status") == "initialized"


def is_flag(value: object) -> bool:
    """Whether *value* is true or false."""
    return isinstance(value, bool)


FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "HEALTH-1": ("status", lambda value: isinstance(value, str)),
    "HEALTH-2": ("model_id", lambda value: isinstance(value, str) and bool(value)),
    "HEALTH-3": ("model_status", lambda value: value in STATUSES),
    "HEALTH-4": ("models_healthy", is_flag),
    "HEALTH-5": ("warmup_enabled", is_flag),
    "HEALTH-6": ("warmup_completed", is_flag),
}


def status_is_ok(health: Exchange) -> bool:
    """HEALTH-7."""
    return health.fields().get("status") == "ok"


def code_is_the_health(health: Exchange) -> bool:
    """HEALTH-8."""
    expected = 200 if health.fields().get("models_healthy") is True else 503
    return health.status == expected


def health_is_the_status(health: Exchange) -> bool:
    """HEALTH-11."""
    if not {"models_healthy", "model_status"} <= set(health.fields()):
        not_tested("/health has not both of models_healthy and model_status")
    return (health.fields().get("models_healthy") is True) == is_initialized(health)


RELATIONS = {
    "HEALTH-7": (status_is_ok, 'status is not "ok"'),
    "HEALTH-8": (code_is_the_health, "status code and models_healthy disagree"),
    "HEALTH-11": (health_is_the_status, "models_healthy and model_status disagree"),
}


def is_null_by_right(field: str, health: Exchange) -> bool:
    """
    Whether the field is null where it may be.

    That is while nothing is loaded; and later both warm-up fields may be, since models that
    don't generate text have no warm-up.
    """
    fields = health.fields()
    is_null = field in fields and fields[field] is None
    if is_initialized(health):
        warmup = [fields.get("warmup_enabled"), fields.get("warmup_completed")]
        return is_null and field.startswith("warmup") and warmup == [None, None]
    return is_null and field in NULL_WHEN_NOT_READY


def check_field(demand: Requirement, health: Exchange) -> None:
    """Demand the field's type."""
    field, is_right = FIELDS[demand.id]
    fields = health.fields()
    holds = field in fields and (is_right(fields[field]) or is_null_by_right(field, health))
    check(demand, holds, f"{field} = {fields.get(field, 'missing')!r}", health)


def warming(start: Start) -> list[Exchange]:
    """Return the answers given with warm-up enabled and not completed."""
    healths = [moment.health for moment in start.moments]
    return [
        health
        for health in healths
        if health.fields().get("warmup_enabled") is True
        and health.fields().get("warmup_completed") is False
    ]


def unready(moments: list[Moment]) -> list[Exchange]:
    """Return the answers given before the model was loaded, by any of their signs."""
    healths = [moment.health for moment in moments]
    found = [health for health in healths if health.status == 503 or not is_initialized(health)]
    return found or not_tested("the server was never seen uninitialized")


def rank(health: Exchange) -> int:
    """Return how far the start has come: 0 not ready, 1 warming up, 2 ready."""
    if health.status != 200:
        return 0
    return 2 if is_ready(health) else 1


@requirement(*FIELDS)
def test_field_has_its_type(demand: Requirement, server: Server) -> None:
    """Each of the six fields is there, with its type."""
    check_field(demand, server.get("/health"))


@requirement(*FIELDS, profile=UNREADY)
def test_field_has_its_type_before_readiness(demand: Requirement, moments: list[Moment]) -> None:
    """The six fields keep their types from the first answer on."""
    for moment in moments:
        check_field(demand, moment.health)


@requirement(*RELATIONS)
def test_fields_agree(demand: Requirement, server: Server) -> None:
    """What the fields and the status code say fits together."""
    holds, otherwise = RELATIONS[demand.id]
    health = server.get("/health")

    check(demand, holds(health), otherwise, health)


@requirement(*RELATIONS, profile=UNREADY)
def test_fields_agree_before_readiness(demand: Requirement, moments: list[Moment]) -> None:
    """It fits together in every state, not just in the last."""
    holds, otherwise = RELATIONS[demand.id]
    for moment in moments:
        check(demand, holds(moment.health), otherwise, moment.health)


@requirement("HEALTH-9", profile=UNREADY)
def test_uninitialized_is_503(demand: Requirement, moments: list[Moment]) -> None:
    """Nobody is sent to a server that has no model yet."""
    for health in unready(moments):
        check(demand, health.status == 503, f"status {health.status}", health)


@requirement("HEALTH-10", profile=UNREADY)
def test_nothing_is_known_while_not_ready(demand: Requirement, moments: list[Moment]) -> None:
    """What only a loaded model has is null until there is one."""
    for health in unready(moments):
        fields = health.fields()
        wrong = [name for name in NULL_WHEN_NOT_READY if fields.get(name, "missing") is not None]
        check(demand, not wrong, f"not null: {', '.join(wrong)}", health)


@requirement("HEALTH-12")
def test_model_id_is_listed(demand: Requirement, server: Server) -> None:
    """The loaded model can be found by its id."""
    health = server.get("/health")
    ids = [model.get("id") for model in server.models()]
    if not is_initialized(health):
        not_tested("/health doesn't say that a model is loaded")

    check(demand, health.fields().get("model_id") in ids, f"listed: {ids}", health)


@requirement("HEALTH-13", profile="startup")
def test_loading_can_be_seen(demand: Requirement, start: Start) -> None:
    """The first answer comes before the model is there."""
    if not start.saw_nothing_before:
        not_tested("the server answered before the watch began")
    first = start.moments[0].health

    check(demand, first.status == 503, "the first answer of all was not a 503", first)


@requirement("HEALTH-14", profile="startup")
def test_warming_up_is_healthy(demand: Requirement, start: Start) -> None:
    """A server that warms up can be used already, and says that it is not done."""
    found = warming(start)
    if not found:
        inapplicable("nobody can see it warm up: it doesn't, or is too quick")
    for health in found:
        is_healthy = health.status == 200 and health.fields().get("models_healthy") is True
        check(demand, is_healthy and is_initialized(health), "not healthy", health)


@requirement("HEALTH-15", profile="startup")
def test_states_never_go_back(demand: Requirement, start: Start) -> None:
    """Starting is a way in one direction."""
    healths = [moment.health for moment in start.moments]
    if len({rank(health) for health in healths}) < 2:
        not_tested("only one state was seen")
    for before, after in pairwise(healths):
        went_back = rank(after) < rank(before)
        check(demand, not went_back, f"before it: {before}", after)


class Busy(NamedTuple):
    """
    What was seen of /health while a generation ran.

    Attributes:
        healths: the answers that were asked for meanwhile.
        missing: why one of them never came; None where all did.
        generated: what became of the generation.
        began_s: when it was seen to begin, on the monotonic clock.
        ended_s: when it was over.
        lag_s: how late this machine was meanwhile, at worst.
    """

    healths: list[Exchange]
    missing: NoAnswer | None
    generated: list[Exchange | NoAnswer]
    began_s: float
    ended_s: float
    lag_s: float

    @property
    def can_tell(self) -> bool:
        """Whether it lasted so long that an answer in its midst was to be expected."""
        return self.lasted_s >= max(MEASURABLE_S, N_LAGS * self.lag_s)

    @property
    def lasted_s(self) -> float:
        """Seconds from the generation's first sign of life to its end."""
        return self.ended_s - self.began_s

    @property
    def has_prompt_answer(self) -> bool:
        """Whether one was asked for and came in the midst of the generation, not at its end."""
        from_s, to_s = (self.began_s + share * self.lasted_s for share in MIDST)
        return any(
            from_s < health.at_s and health.at_s + health.total_s < to_s for health in self.healths
        )


def is_generated(answer: Exchange | NoAnswer, fields: Mapping[str, object]) -> bool:
    """Whether a generation came as it was asked for."""
    if isinstance(answer, NoAnswer) or answer.status != 200:
        return False
    return (answer.media_type == "text/event-stream") == bool(fields.get("stream"))


def busy_with(server: Server, n_chats: int, fields: Mapping[str, object]) -> Busy:
    """Have a few chats answered at once, and ask for /health again and again meanwhile."""
    request = server.chat_request(LONG_TASK, (), **fields)
    flowing = threading.Event()
    healths: list[Exchange] = []
    missing = None

    def generate() -> Exchange | NoAnswer:
        """Ask once; that a generation breaks off is no fault of /health."""
        try:
            return server.send(request, lambda _: flowing.set())
        except NoAnswer as error:
            return error
        finally:
            flowing.set()

    began_s = time.monotonic()
    with Lag() as lag, ThreadPoolExecutor(n_chats) as pool:
        chats = [pool.submit(generate) for _ in range(n_chats)]
        if fields.get("stream"):
            flowing.wait(server.timeout_s)
            began_s = time.monotonic()
        while not (missing or all(chat.done() for chat in chats)):
            try:
                healths.append(server.get("/health"))
            except NoAnswer as error:
                missing = error
            time.sleep(STEP_S)
        generated = [chat.result() for chat in chats]
        ended_s = time.monotonic()
    return Busy(healths, missing, generated, began_s, ended_s, lag.worst_s)


@functools.cache
def all_busy(server: Server, how: str) -> list[Busy]:
    """
    Keep the server busy for long enough, with more and more tokens; once for all checks.

    An answer that doesn't come promptly is looked for again: the machine may have been at fault.

    Raises:
        NotTested: nothing is generated, or all of it in no time.
    """
    n_chats, fields = LOADS[how]
    more: Mapping[str, object] = IGNORING_THE_END
    tries: list[Busy] = []
    while len(tries) < len(N_TOKENS):
        asked = {**fields, **more, "max_tokens": N_TOKENS[len(tries)]}
        found = busy_with(server, n_chats, asked)
        if found.missing or found.has_prompt_answer:
            return [*tries, found]
        if any(is_generated(each, fields) for each in found.generated):
            tries.append(found)
        elif more:
            more = {}
        elif tries:
            break  # it was more than the context has room for
        else:
            not_tested(f"asked for a generation, got {found.generated[0]}")
    return tries


def busy(server: Server, how: str) -> Busy:
    """Return the last of *all_busy*."""
    return all_busy(server, how)[-1]


def all_answers(found: Busy) -> list[Exchange]:
    """Return the answers of /health; leave the check open where there are none, or one is missing."""
    if found.missing:
        not_tested(f"one answer never came: {found.missing}")
    return found.healths or not_tested("the generation was too short")


@pytest.mark.parametrize("how", LOADS)
@requirement("HEALTH-16")
def test_health_answers_during_generation(demand: Requirement, server: Server, how: str) -> None:
    """Generation doesn't keep /health from answering."""
    found = busy(server, how)
    if found.missing and server.timeout_s < ANSWERS_WITHIN_S:
        not_tested(f"--timeout is below the {ANSWERS_WITHIN_S:g} s allowed")
    check(demand, not found.missing, f"no answer: {found.missing}")
    slowest = max(all_answers(found), key=lambda health: health.total_s)

    check(demand, slowest.total_s <= ANSWERS_WITHIN_S, f"after {slowest.total_s:.2f} s", slowest)


@pytest.mark.parametrize("how", LOADS)
@requirement("HEALTH-18")
def test_health_stays_during_generation(demand: Requirement, server: Server, how: str) -> None:
    """A server that is busy is as healthy as before."""
    for health in all_answers(busy(server, how)):
        check_stays_ready(demand, health)


def check_stays_ready(demand: Requirement, health: Exchange) -> None:
    """Demand what the guide's clients call ready."""
    is_healthy = health.status == 200 and health.fields().get("models_healthy") is True
    check(demand, is_healthy, "not healthy while it generates", health)


@pytest.mark.parametrize("how", LOADS)
@requirement("HEALTH-19")
def test_health_does_not_wait_for_the_end(demand: Requirement, server: Server, how: str) -> None:
    """However quick the model is, /health isn't answered in turn with generations."""
    found = busy(server, how)
    healths = all_answers(found)
    telling = [each.lasted_s for each in all_busy(server, how) if each.can_tell]
    if not found.has_prompt_answer and len(telling) < N_TELLING:
        not_tested(
            f"a generation took {found.lasted_s:.3f} s on a machine {found.lag_s:.3f} s late"
        )
    times = ", ".join(f"{lasted_s:.2f}" for lasted_s in telling)

    check(demand, found.has_prompt_answer, f"not before the end of {times} s", healths[0])


@pytest.mark.parametrize("how", LOADS)
@requirement("HEALTH-20")
def test_health_is_quick_during_generation(demand: Requirement, server: Server, how: str) -> None:
    """Who polls /health needn't wait."""
    found = busy(server, how)
    healths = sorted(all_answers(found), key=lambda health: health.total_s)
    if not found.has_prompt_answer:
        not_tested("no answer came while it generated")
    median = healths[len(healths) // 2]

    check(demand, median.total_s <= QUICK_S, f"after {median.total_s:.2f} s, the median", median)


@requirement("HEALTH-17", profile=UNREADY)
def test_other_routes_wait_for_the_model(demand: Requirement, moments: list[Moment]) -> None:
    """Until the model is there, other routes say to come back later."""
    others = [moment.other for moment in moments if moment.other]
    if not others:
        not_tested("no other route was asked between two 503s of /health")
    for answer in others:
        problem = envelope_problem(answer)
        check(demand, answer.status == 503, f"status {answer.status}", answer)
        check(demand, not problem, problem, answer)
        check(demand, bool(answer.values("retry-after")), "no Retry-After", answer)
