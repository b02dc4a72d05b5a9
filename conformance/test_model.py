"""MODEL: `GET /v1/models/{id}`."""

import re
from urllib.parse import quote

import pytest

from conformance.answers import UNKNOWN_MODEL
from conformance.catalogue import OF_ANY, Requirement
from conformance.client import Exchange, Server
from conformance.openai_shapes import envelope_problem
from conformance.verdicts import check, inapplicable, not_tested, requirement

ENCODED = re.compile("%[0-9A-F]{2}")


def listed_id(server: Server) -> str:
    """Return the id of the model under test, as listed."""
    ids = [str(model.get("id")) for model in server.models()]
    if not ids:
        not_tested("/v1/models lists no id to ask for")
    return server.model if server.model in ids else ids[0]


def raw(model: str) -> str:
    """Return the path with the id's slashes as they are."""
    return f"/v1/models/{quote(model, safe='/')}"


def encoded(model: str) -> str:
    """Return the path with the id's slashes encoded; without one, its first character is."""
    if "/" in model:
        return f"/v1/models/{quote(model, safe='')}"
    return f"/v1/models/%{ord(model[0]):02X}{quote(model[1:], safe='')}"


def either_way(server: Server) -> Exchange:
    """Return the model's answer on whichever form of the path the server knows."""
    model = listed_id(server)
    answer = server.get(raw(model))
    return answer if answer.status == 200 else server.get(encoded(model))


@requirement("MODEL-1", profile=OF_ANY)
def test_model_is_the_bare_object(demand: Requirement, server: Server) -> None:
    """One model comes without an envelope."""
    answer = either_way(server)

    check(demand, answer.status == 200, f"status {answer.status}", answer)
    check(demand, answer.fields().get("object") == "model", "not a model's own object", answer)
    check(demand, "data" not in answer.fields(), "wrapped in an envelope", answer)


@requirement("MODEL-2", profile=OF_ANY)
def test_raw_slash_is_understood(demand: Requirement, server: Server) -> None:
    """A client that leaves the slash alone, as curl does, finds the model."""
    model = listed_id(server)
    if "/" not in model:
        inapplicable(f"the id {model} has no slash")

    answer = server.get(raw(model))

    check(demand, answer.fields().get("id") == model, f"asked for {model}", answer)


@pytest.mark.parametrize("digits", ["upper", "lower"])
@requirement("MODEL-3", profile=OF_ANY)
def test_encoded_slash_is_understood(demand: Requirement, server: Server, digits: str) -> None:
    """A client that encodes the slash, as newer OpenAI clients do, finds the model: %2F, %2f."""
    model = listed_id(server)
    path = encoded(model)
    if digits == "lower":
        path = ENCODED.sub(lambda found: found[0].lower(), path)

    answer = server.get(path)

    check(demand, answer.fields().get("id") == model, f"asked for {model}", answer)


@requirement("MODEL-4")
def test_model_equals_its_entry(demand: Requirement, server: Server) -> None:
    """List and detail tell the same about a model."""
    entries = {str(model.get("id")): model for model in server.models()}
    answer = either_way(server)
    if answer.status != 200:
        not_tested("the single model can't be had")
    shown, entry = answer.fields(), entries.get(listed_id(server), {})
    differing = sorted(key for key in shown | entry if shown.get(key) != entry.get(key))

    check(demand, shown == entry, f"differs from the list's entry in {differing}", answer)


@requirement("MODEL-5", profile=OF_ANY)
def test_unknown_model_is_not_found(demand: Requirement, server: Server) -> None:
    """An unknown id is told apart from an unknown route, by its code."""
    answer = server.get(f"/v1/models/{UNKNOWN_MODEL}")
    problem = envelope_problem(answer)

    check(demand, answer.status == 404, f"status {answer.status}", answer)
    check(demand, not problem, problem, answer)
    code = answer.fields()["error"]["code"]
    check(demand, code == "model_not_found", f"code {code!r}", answer)
