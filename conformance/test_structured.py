"""SCHEMA: answers that must have a form."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import SURFACE, Requirement
from conformance.client import Exchange
from conformance.listener import HOST, Listener
from conformance.questions.structured import (
    BOUNDED,
    BOUNDS,
    COLOUR,
    DEEP,
    FORMED,
    NESTED,
    OBJECTS,
    UNFORMED,
    closed,
    formed,
)
from conformance.shapes.choices import choice_of, param_of, refusal_problem
from conformance.shapes.forms import form_problem
from conformance.verdicts import check, not_tested, requirement


def judge(demand: Requirement, answer: Exchange, schema: object) -> None:
    """Demand that an answer fits *schema*; leave it open where it was cut, but has begun well."""
    choice = choice_of(answer)
    check(demand, answer.status == 200, f"status {answer.status}", answer)
    text = choice.text.strip()  # none yet, where a model thought for as long as it might write
    if choice.finish_reason == "length" and (not text or text.startswith("{")):
        not_tested("the answer was cut before its end")
    problem = form_problem(choice.text, schema)
    check(demand, not problem, problem, answer)


def judge_or_refused(demand: Requirement, answer: Exchange, schema: object) -> None:
    """Demand the same, or an honest refusal of the schema."""
    if answer.status != 400:
        judge(demand, answer, schema)
        return
    problem = refusal_problem(answer)
    check(demand, not problem, problem, answer)


@pytest.mark.parametrize("how", FORMED)
@requirement("SCHEMA-1", profile=SURFACE)
def test_content_fits_its_schema(demand: Requirement, answers: Answers, how: str) -> None:
    """The content is the JSON that the client's schema describes, and nothing else."""
    judge(demand, answers.to(FORMED[how]), COLOUR)


@pytest.mark.parametrize("bound", BOUNDED)
@requirement("SCHEMA-2", profile=SURFACE)
def test_bounds_hold(demand: Requirement, answers: Answers, bound: str) -> None:
    """Keywords that bound a value aren't left to the model's good will."""
    judge_or_refused(demand, answers.to(BOUNDED[bound]), BOUNDS[bound])


@pytest.mark.parametrize("form", DEEP)
@requirement("SCHEMA-3", profile=SURFACE)
def test_nested_forms_hold(demand: Requirement, answers: Answers, form: str) -> None:
    """Schemas as data classes make them hold in their depth."""
    judge_or_refused(demand, answers.to(DEEP[form]), NESTED[form])


@requirement("SCHEMA-4", profile=SURFACE)
def test_content_is_an_object(demand: Requirement, answers: Answers) -> None:
    """Without a schema, too, JSON is JSON; an answer that is cut is asked for again."""
    for question in OBJECTS.values():
        answer = answers.to(question)
        if choice_of(answer).finish_reason != "length":
            break
    else:
        answers.demand_uncut(answer)

    judge(demand, answer, {"type": "object"})


@pytest.mark.parametrize("wrong", UNFORMED)
@requirement("SCHEMA-5", profile=SURFACE)
def test_no_schema_is_refused(demand: Requirement, answers: Answers, wrong: str) -> None:
    """What describes no form can't be promised, and the client is told which field it was."""
    answer = answers.to(UNFORMED[wrong])
    problem = refusal_problem(answer)

    check(demand, not problem, problem, answer)
    named = param_of(answer)
    check(demand, named.startswith("response_format"), f"param {named!r}", answer)


@requirement("SCHEMA-6", profile=SURFACE)
def test_schema_is_never_fetched(demand: Requirement, answers: Answers) -> None:
    """A reference to an address doesn't make the server go there."""
    with Listener() as listener:
        address = f"http://{HOST}:{listener.port}/schema.json"
        answer = answers.to(formed(closed({"value": {"$ref": address}})))
        n_visits = listener.n_visits()
    problem = refusal_problem(answer)

    check(demand, not n_visits, f"{n_visits} connections to {address}", answer)
    check(demand, not problem, problem, answer)
