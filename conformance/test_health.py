"""HEALTH: `GET /health`, on a running server and, with --launch, from its first moment."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from conformance.answers import LONG_TASK
from conformance.catalogue import Requirement
from conformance.client import Exchange, NoAnswer, Server
from conformance.openai_shapes import envelope_problem
from conformance.start import UNREADY, Moment, Start, is_ready
from conformance.verdicts import check, not_tested, requirement

N_STREAMS = 3
N_STREAM_TOKENS = 96
ANSWERS_WITHIN_S = 5.0
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
        not_tested("warm-up was never seen: it is off, or over too soon")
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


class Load:
    """
    A few streams at once.

    Attributes:
        flowing: set once the first of them has brought its first piece, or ended without one.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._request = server.chat_request(LONG_TASK, max_tokens=N_STREAM_TOKENS, stream=True)
        self.flowing = threading.Event()

    def run(self) -> Exchange | NoAnswer:
        """Stream once; that a stream breaks off is no fault of /health."""
        try:
            return self._server.send(self._request, lambda _: self.flowing.set())
        except NoAnswer as error:
            return error
        finally:
            self.flowing.set()


def is_stream(answer: Exchange | NoAnswer) -> bool:
    """Whether a generation was sent piece by piece."""
    if isinstance(answer, NoAnswer):
        return False
    return answer.status == 200 and answer.media_type == "text/event-stream"


def ask_under_load(server: Server) -> Exchange:
    """Ask /health; leave the check open where --timeout ends the wait before the limit does."""
    try:
        return server.get("/health")
    except NoAnswer:
        if server.timeout_s < ANSWERS_WITHIN_S:
            not_tested(f"--timeout is below the {ANSWERS_WITHIN_S:g} s allowed")
        raise


@requirement("HEALTH-16")
def test_health_answers_during_generation(demand: Requirement, server: Server) -> None:
    """Generation doesn't keep /health from answering."""
    load = Load(server)
    during: list[Exchange] = []
    with ThreadPoolExecutor(N_STREAMS) as pool:
        streams = [pool.submit(load.run) for _ in range(N_STREAMS)]
        load.flowing.wait(server.timeout_s)
        while not all(stream.done() for stream in streams):
            during.append(ask_under_load(server))
            time.sleep(STEP_S)
    found = [stream.result() for stream in streams]
    if not any(is_stream(each) for each in found):
        not_tested(f"asked for a stream, got {found[0]}")
    if not during:
        not_tested("the streams were too short")
    slowest = max(during, key=lambda health: health.total_s)

    check(demand, slowest.total_s <= ANSWERS_WITHIN_S, f"after {slowest.total_s:.2f} s", slowest)


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
