"""SHAPE: every response seen in the run, held against the schemas in contracts/."""

import pytest

from conformance.answers import Answers
from conformance.catalogue import Requirement
from conformance.client import Server
from conformance.contracts import check_all_seen
from conformance.start import UNREADY
from conformance.verdicts import requirement

# Each with its contract, and a kind of answer that falls under it.
ANSWERS = {
    "SHAPE-1": ("model-list", "models"),
    "SHAPE-2": ("model", "model"),
    "SHAPE-4": ("chat-completion", "completion"),
    "SHAPE-5": ("chat-completion-chunk", "stream"),
}


@pytest.mark.closing
@requirement(*ANSWERS)
def test_every_answer_keeps_its_contract(
    demand: Requirement, server: Server, answers: Answers
) -> None:
    """Each list, model, completion and chunk that was seen in this run fits its schema."""
    contract, kind = ANSWERS[demand.id]
    answers.of(kind)

    check_all_seen(demand, server, contract)


@pytest.mark.closing
@requirement("SHAPE-3", profile=("wire", *UNREADY))
def test_every_health_keeps_its_contract(demand: Requirement, server: Server) -> None:
    """Each answer of /health that was seen in this run fits its schema."""
    server.get("/health")

    check_all_seen(demand, server, "health")


@pytest.mark.closing
@requirement("SHAPE-6", profile=("wire", *UNREADY))
def test_every_error_keeps_its_contract(demand: Requirement, server: Server) -> None:
    """Each error that was seen in this run fits its schema."""
    server.get("/v1/no-such-route")

    check_all_seen(demand, server, "error")
