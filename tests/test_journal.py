"""What is kept of the last requests, and what metrics are told of each."""

from typing import Any

import pytest

from service import contracts
from service.fleet.ticket import Ticket
from service.protocol import Accepted, Delta, Spent
from service.telemetry import Metrics
from service.web.journal import N_KEPT, Journal, Visit


def answered(*, ended: bool = True) -> Ticket:
    """Return the ticket of a request with one answer of 5 tokens, which may not have come to its end."""
    ticket = Ticket(range(1), lambda _: None)
    ticket.waited_s = 0.5
    ticket.put(Accepted(0, 20))
    ticket.put(Delta(0, "Hello", 1))
    if ended:
        spent = Spent(queue_s=0.25, prefill_s=0.125, decode_s=2.0, n_cached_tokens=8)
        ticket.put(Delta(0, "", 5, "stop", spent=spent))
    return ticket


def visit(ticket: Ticket | None) -> Visit:
    """Return a request for a chat."""
    return Visit("POST", "/v1/chat/completions", 0.0, "/v1/chat/completions", "gemma", ticket)


def told(journal: Journal) -> dict[str, Any]:
    """Return the newest entry, which keeps its contract."""
    requests = journal.last()
    contracts.check("status", {"models": [], "completion_tokens": 0, "requests": requests})
    return requests[0]


def test_request_is_told_with_its_times() -> None:
    """Where the seconds went, and the tokens, by model; the newest first."""
    metrics = Metrics()
    journal = Journal(metrics)
    journal.note(visit(answered()), "req-1", 200, 3.0)
    journal.note(visit(answered()), "req-2", 200, 3.0)
    entry = told(journal)

    assert ("req-2", 0.75, 0.125, 2.0) == (
        entry["id"],
        entry["queue_s"],
        entry["prefill_s"],
        entry["decode_s"],
    )
    assert (20, 8, 5) == (
        entry["prompt_tokens"],
        entry["cached_tokens"],
        entry["completion_tokens"],
    )
    sample = metrics.registry.get_sample_value
    assert 1.5 == sample("tier3a_queue_seconds_sum", {"model": "gemma"})
    assert 1.0 == sample("tier3a_inter_token_seconds_sum", {"model": "gemma"})
    assert 16 == sample("tier3a_cached_prompt_tokens_total", {"model": "gemma"})


@pytest.mark.parametrize("ticket", [answered(ended=False), Ticket(range(1), lambda _: None)])
def test_answer_that_was_cut_is_told_as_far_as_it_came(ticket: Ticket) -> None:
    """Its client left, or it broke: what is not known is null."""
    journal = Journal(Metrics())
    journal.note(visit(ticket), "req-1", 499, 1.0)
    entry = told(journal)

    assert (None, None, 499) == (entry["prefill_s"], entry["decode_s"], entry["status"])
    assert (entry["ttft_s"] is None) == (entry["completion_tokens"] == 0)


def test_tokens_of_answers_in_progress_count() -> None:
    """A chart of tokens a second needs them before the request ends, and not twice after it."""
    journal = Journal(Metrics())
    open_visit = visit(answered(ended=False))
    journal.begin(open_visit)
    assert 1 == journal.n_completion_tokens
    open_visit.ticket = answered()
    assert 5 == journal.n_completion_tokens
    journal.note(open_visit, "req-1", 200, 1.0)
    assert 5 == journal.n_completion_tokens


def test_journal_is_bounded_and_holds_no_probes() -> None:
    """Who polls leaves no trace there, but in the counters."""
    metrics = Metrics()
    journal = Journal(metrics)
    for i in range(N_KEPT + 1):
        journal.note(visit(answered()), f"req-{i}", 200, 1.0)
        journal.note(Visit("GET", "/health", 0.0, "/health"), "probe", 200, 0.1)

    assert N_KEPT == len(journal.last())
    labels = {"method": "GET", "route": "/health", "model": "", "status": "200"}
    assert N_KEPT + 1 == metrics.registry.get_sample_value("tier3a_requests_total", labels)


@pytest.mark.parametrize("logs_probes", [True, False])
def test_probes_are_logged_where_they_are_wanted(
    logs_probes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else always is."""
    journal = Journal(Metrics(), logs_probes=logs_probes)
    with caplog.at_level("INFO", "service.web.journal"):
        for each in (Visit("GET", "/health", 0.0), Visit("GET", "/v1/models", 0.0)):
            journal.begin(each)
            journal.note(each, "req-1", 200, 0.1)

    assert (4 if logs_probes else 2) == len(caplog.records)
