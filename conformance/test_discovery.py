"""DISC: `GET /v1/models`."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from conformance.answers import Answers
from conformance.catalogue import OF_ANY, Requirement
from conformance.client import CHAT, Exchange, Server, models_in, shorten, tags_of
from conformance.launch import Launched, Launcher
from conformance.verdicts import check, not_tested, requirement

CLOCK_SKEW_S = 86_400
YEAR_2001 = 1_000_000_000
SECOND_S = 1.1  # and a little, since created has whole seconds


def is_text(value: object) -> bool:
    """Whether *value* is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_integer(value: object) -> bool:
    """Whether *value* is an integer; JSON's true and false aren't."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_recent(value: object) -> bool:
    """Whether *value* is a moment in whole Unix seconds that has already been."""
    return is_integer(value) and YEAR_2001 < value < time.time() + CLOCK_SKEW_S  # type: ignore[operator]  # is_integer holds


def is_texts(value: object) -> bool:
    """Whether *value* is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "DISC-2": ("id", is_text),
    "DISC-3": ("object", lambda value: value == "model"),
    "DISC-4": ("created", is_recent),
    "DISC-5": ("owned_by", lambda value: value == "local-mlx"),
    "DISC-6": ("description", is_text),
    "DISC-7": ("context_length", lambda value: is_integer(value) and value > 0),  # type: ignore[operator]  # is_integer holds
    "DISC-8": ("family", is_text),
    "DISC-9": ("tags", is_texts),
    "DISC-10": ("tier", lambda value: value == "3A"),
}
OPENAIS = ("DISC-2", "DISC-3")
OURS = [each for each in FIELDS if each not in OPENAIS]
NINE = [field for field, _ in FIELDS.values()]


def listed(server: Server) -> list[dict[str, Any]]:
    """Return the models listed; leave the check open where there are none to look at."""
    return server.models() or not_tested("/v1/models lists nothing to look at")


def lists_of(server: Server) -> list[Exchange]:
    """Return the answers of this run in which the server under test lists models."""
    own = (each for each in server.journal.seen if each.url == server.address.origin)
    return [
        each
        for each in own
        if each.request.target.rstrip("/").endswith("/v1/models") and models_in(each)
    ]


@requirement("DISC-1", profile=OF_ANY)
def test_models_are_a_list(demand: Requirement, answers: Answers) -> None:
    """The list comes in OpenAI's envelope, as JSON."""
    answer = answers.of("models")
    data = answer.fields().get("data")

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, answer.fields().get("object") == "list", 'object is not "list"', answer)
    check(
        demand,
        isinstance(data, list) and all(isinstance(entry, dict) for entry in data),
        "data is not an array of objects",
        answer,
    )
    check(demand, answer.media_type == "application/json", "not application/json", answer)


@requirement(*OPENAIS, profile=OF_ANY)
def test_field_of_any_model(demand: Requirement, server: Server) -> None:
    """What clients of OpenAI's read of a model is there."""
    check_field(demand, server)


@requirement(*OURS)
def test_field_of_each_model(demand: Requirement, server: Server) -> None:
    """Each of the nine fields has its type, and its value where that is fixed."""
    check_field(demand, server)


def check_field(demand: Requirement, server: Server) -> None:
    """Look at the field that a requirement is about, on each model."""
    field, is_right = FIELDS[demand.id]
    for model in listed(server):
        value = model.get(field)
        check(demand, is_right(value), f"{model.get('id')}: {field} = {shorten(repr(value))}")


@pytest.mark.closing
@requirement("DISC-4")
def test_created_stays(demand: Requirement, server: Server) -> None:
    """The moment of loading is the same in all lists of the run, which are over a second apart."""
    listed(server)
    time.sleep(max(0.0, lists_of(server)[0].at_s + SECOND_S - time.monotonic()))
    server.models()
    first: dict[str, object] = {}
    for exchange in lists_of(server):
        for model in models_in(exchange):
            now = model.get("created")
            before = first.setdefault(str(model.get("id")), now)
            check(demand, now == before, f"{model.get('id')}: {before}, later {now}", exchange)


@requirement("DISC-11")
def test_no_field_is_missing(demand: Requirement, server: Server) -> None:
    """All nine fields are there, on every model."""
    for model in listed(server):
        missing = [field for field in NINE if field not in model]
        check(demand, not missing, f"{model.get('id')} has no {', '.join(missing)}")


@requirement("DISC-12")
def test_healthy_server_lists_a_model(demand: Requirement, server: Server) -> None:
    """A healthy server has something to offer."""
    if server.get("/health").fields().get("models_healthy") is not True:
        not_tested("the server isn't healthy")

    answer = server.get("/v1/models")

    check(demand, bool(answer.fields().get("data")), "healthy, and nothing listed", answer)


@requirement("DISC-13", profile=OF_ANY)
def test_ids_are_unique(demand: Requirement, server: Server) -> None:
    """An id names one model."""
    ids = [str(model.get("id")) for model in listed(server)]

    check(demand, len(ids) == len(set(ids)), f"listed: {ids}")


@requirement("DISC-14", profile="managed")
def test_context_length_is_the_configured_one(
    demand: Requirement, launched: Launched, launcher: Launcher
) -> None:
    """The length given by --context-length or CONTEXT_LENGTH is the length shown."""
    shown = [model.get("context_length") for model in listed(launched.server)]
    given = launcher.context_length

    check(demand, given in shown, f"started with context length {given}, shown {shown}")


@requirement("DISC-15")
def test_chat_models_say_so(demand: Requirement, server: Server, answers: Answers) -> None:
    """A model that answers a chat carries both tags, and so does each that says it can chat."""
    can_chat = answers.of("completion").status == 200
    models = [
        model
        for model in listed(server)
        if "chat" in tags_of(model) or (can_chat and model.get("id") == server.model)
    ]
    if not models:
        not_tested(f"no listed model is known to answer {CHAT}")
    for model in models:
        tags = tags_of(model)
        check(demand, {"chat", "local"} <= tags, f"{model.get('id')} has the tags {sorted(tags)}")
