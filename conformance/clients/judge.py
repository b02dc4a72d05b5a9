"""What is said of a client, by what it asked and when."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from conformance.catalogue import Requirement
from conformance.clients.stage import (
    CHAT,
    CHATTING,
    CONTEXT_LENGTH,
    FAMILY,
    RETRY_AFTER_S,
    Seen,
)
from conformance.verdicts import FAIL, NOT_TESTED, PASS, WARN, NotTested, not_tested

ROWS = Path(__file__).parent / "rows.toml"
LEGAL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
QUICKEST_S = 0.1
EARLY_S = 0.05  # a clock's and a socket's inaccuracy


@dataclass(frozen=True)
class Record:
    """
    One run of a client.

    Attributes:
        seen: its requests, in the order in which they came.
        status: what its process ended with; None where it had to be ended.
    """

    seen: tuple[Seen, ...]
    status: int | None

    @property
    def chats(self) -> list[Seen]:
        """Its chats, whatever came of them."""
        return [each for each in self.seen if each.path == CHAT]

    @property
    def looks(self) -> list[Seen]:
        """Its looks at /health."""
        return [each for each in self.seen if each.path == "/health"]

    def first_chat(self) -> Seen:
        """Return its first chat; leave the rule open where there is none."""
        return self.chats[0] if self.chats else not_tested("it sent no chat")


@dataclass(frozen=True)
class Said:
    """What one requirement came to; *seen* is what was found instead, or why it is open."""

    requirement: Requirement
    verdict: str
    seen: str = ""


def rows() -> dict[str, Requirement]:
    """Return the requirements for clients by their ids."""
    found = tomllib.loads(ROWS.read_text(encoding="utf-8"))["requirement"]
    return {fields["id"]: Requirement(**fields | {"profiles": ("client",)}) for fields in found}


def judge(record: Record) -> list[Said]:
    """Return what each requirement came to."""
    return [_said(row, record) for row in rows().values()]


def _said(row: Requirement, record: Record) -> Said:
    try:
        problem = RULES[row.id](record)
    except NotTested as reason:
        return Said(row, NOT_TESTED, str(reason))
    if not problem:
        return Said(row, PASS)
    return Said(row, FAIL if row.is_must else WARN, problem)


def _told(record: Record, states: set[str]) -> bool:
    """Whether /health had said one of *states* before the first chat."""
    first = record.first_chat()
    return any(look.act in states for look in record.looks if look.at_s < first.at_s)


def waits_for_health(record: Record) -> str:
    """CLIENT-1."""
    is_told = _told(record, {"warming", "ready"})
    return "" if is_told else "its first chat came before /health had called the models healthy"


def waits_for_warm_up(record: Record) -> str:
    """CLIENT-2."""
    is_told = _told(record, {"ready"})
    return "" if is_told else "its first chat came before /health had told the warm-up's end"


def goes_on_looking(record: Record) -> str:
    """CLIENT-3."""
    states = [look.act for look in record.looks]
    if not states:
        return "it never looked at /health"
    return "" if "ready" in states else f"its last look showed that the server was {states[-1]}"


def looks_calmly(record: Record) -> str:
    """CLIENT-4."""
    pairs = [pair for pair in pairwise(record.seen) if {each.path for each in pair} == {"/health"}]
    pauses = [later.at_s - one.at_s for one, later in pairs]
    if not pauses:
        not_tested("it never looked at /health twice in a row")
    return "" if min(pauses) >= QUICKEST_S else f"two looks within {min(pauses):.3f} s"


def finds_its_model(record: Record) -> str:
    """CLIENT-5."""
    first = record.first_chat()
    if not any(each.act == "listed" and each.at_s < first.at_s for each in record.seen):
        return "its first chat came before it had been given the list of models"
    others = {each.body.get("model") for each in record.chats} - {CHATTING, FAMILY}
    return f"it asked {', '.join(map(repr, others))} for a chat" if others else ""


def names_its_chats(record: Record) -> str:
    """CLIENT-6."""
    record.first_chat()
    wrong = [each.request_id for each in record.chats if not LEGAL_ID.fullmatch(each.request_id)]
    return f"{len(wrong)} of {len(record.chats)} chats, such as {wrong[0]!r}" if wrong else ""


def names_each_by_its_own(record: Record) -> str:
    """CLIENT-7: what is the same chat, sent once more, is told by its body and by how the first ended."""
    record.first_chat()
    before: dict[str, Seen] = {}
    for chat in record.chats:
        other = before.get(chat.request_id) if chat.request_id else None
        if other and (other.act == "answered" or other.body != chat.body):
            return f"{chat.request_id!r} names two chats"
        before[chat.request_id] = chat
    return ""


def heeds_retry_after(record: Record) -> str:
    """CLIENT-8: a body that was refused comes again, and not at once."""
    refused = [each for each in record.chats if each.act == "refused"]
    if not refused:
        not_tested("none of its chats was refused")
    for one in refused:
        later = [each for each in record.chats if each.at_s > one.at_s and each.body == one.body]
        if not later:
            return f"a chat that was refused with {one.status} never came again"
        waited_s = later[0].at_s - one.at_s
        if waited_s < RETRY_AFTER_S - EARLY_S:
            return f"{one.status} said Retry-After: {RETRY_AFTER_S}, it waited {waited_s:.2f} s"
    return ""


def _goes_on_after(act: str) -> Callable[[Record], str]:
    """Return the rule that a chat comes after one that ended so."""

    def rule(record: Record) -> str:
        ended = [each for each in record.chats if each.act == act]
        if not ended:
            not_tested("it asked for too few streams to see one end so")
        goes_on = any(each.at_s > ended[-1].at_s for each in record.chats)
        return "" if goes_on else f"no chat came after the stream's {act.replace('cut off', 'end')}"

    return rule


def stays_within_the_context(record: Record) -> str:
    """CLIENT-11."""
    record.first_chat()
    asked = [
        each.body.get("max_completion_tokens") or each.body.get("max_tokens") or 0
        for each in record.chats
    ]
    most = max(number for number in asked if isinstance(number, int))
    is_within = most <= CONTEXT_LENGTH
    return "" if is_within else f"it asked for {most} tokens, the context has {CONTEXT_LENGTH}"


def looks_between(record: Record) -> str:
    """CLIENT-12."""
    if len(record.chats) < 2:
        not_tested("it sent one chat at most")
    first, last = record.chats[0].at_s, record.chats[-1].at_s
    is_looking = any(first < look.at_s < last for look in record.looks)
    return "" if is_looking else "no look at /health between its first chat and its last"


def ends_well(record: Record) -> str:
    """CLIENT-13."""
    if record.status is None:
        return "it didn't come to an end"
    return f"it ended with status {record.status}" if record.status else ""


RULES: dict[str, Callable[[Record], str]] = {
    "CLIENT-1": waits_for_health,
    "CLIENT-2": waits_for_warm_up,
    "CLIENT-3": goes_on_looking,
    "CLIENT-4": looks_calmly,
    "CLIENT-5": finds_its_model,
    "CLIENT-6": names_its_chats,
    "CLIENT-7": names_each_by_its_own,
    "CLIENT-8": heeds_retry_after,
    "CLIENT-9": _goes_on_after("error event"),
    "CLIENT-10": _goes_on_after("cut off"),
    "CLIENT-11": stays_within_the_context,
    "CLIENT-12": looks_between,
    "CLIENT-13": ends_well,
}


def exit_code(said: list[Said]) -> int:
    """Return what a run ends with, as the suite does: 0, 1 where a MUST isn't met, 6 where one is open."""
    verdicts = {each.verdict for each in said if each.requirement.is_must}
    if FAIL in verdicts:
        return 1
    return 6 if NOT_TESTED in verdicts else 0


def lines(said: list[Said]) -> Iterator[str]:
    """Yield one line for each requirement, and what is broken or open behind it."""
    for each in said:
        yield f"{each.verdict:11}{each.requirement.id:10}{each.requirement.demand}"
        if each.seen:
            yield f"{'':21}seen: {each.seen}"


def as_json(said: list[Said]) -> str:
    """Return the same for programs."""
    return json.dumps(
        [{"id": e.requirement.id, "verdict": e.verdict, "seen": e.seen} for e in said], indent=1
    )
