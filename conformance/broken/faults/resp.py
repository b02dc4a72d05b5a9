"""Wrong responses."""

from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Refused, Reply
from conformance.broken.responding import RESPONSES
from conformance.broken.rules import Rule
from conformance.broken.seeing import Body
from conformance.broken.talking import Said

Event = dict[str, Any]
DELTA = "response.output_text.delta"
DONE = "response.output_text.done"
PART_DONE = "response.content_part.done"


@breaks("RESP-1", also={"RESP-6", "RESP-8", "RESP-11"})
class ResponseIsACompletion(Capable):
    def response(self, body: Body, chat: Body, text: str) -> dict[str, Any]:
        return super().response(body, chat, text) | {"object": "chat.completion"}


@breaks("RESP-1", also={"RESP-6", "RESP-8", "RESP-11"})
class UsageByTheNamesOfChats(Capable):
    def response_usage(self, n_tokens: int) -> dict[str, int]:
        return self.usage(n_tokens)


@breaks("RESP-1")
class StreamEndsWithoutUsage(Capable):
    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        for event in super().events(asked, body, chat):
            if "response" in event:
                event["response"]["usage"] = None
            yield event


@breaks("RESP-2")
class CutResponseIsComplete(Capable):
    def status(self, said: Said) -> str:
        return "completed"


@breaks("RESP-2")
class OneOutputTokenMore(Capable):
    def as_chat(self, body: Body) -> Body:
        found = super().as_chat(body)
        return found | {"max_tokens": found["max_tokens"] + 1}


@breaks("RESP-2")
class CutWithoutAReason(Capable):
    def response(self, body: Body, chat: Body, text: str) -> dict[str, Any]:
        return super().response(body, chat, text) | {"incomplete_details": None}


@breaks("RESP-3")
class CreationIsNotTold(Capable):
    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        events = super().events(asked, body, chat)
        next(events)
        return events


@breaks("RESP-3")
class NumbersStandStill(Capable):
    def sequence_number(self, number: int) -> int:
        return 0


@breaks("RESP-3")
class PartClosesBeforeItsText(Capable):
    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        rank = {PART_DONE: 0, DONE: 1}
        held: list[Event] = []
        for event in super().events(asked, body, chat):
            if event["type"] in rank:
                held.append(event)
                continue
            yield from sorted(held, key=lambda each: rank[each["type"]])
            held.clear()
            yield event


@breaks("RESP-4")
class LastDeltaIsLost(Capable):
    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        *others, last = super().events(asked, body, chat)
        places = [at for at, event in enumerate(others) if event["type"] == DELTA]
        del others[places[-1]]
        yield from [*others, last]


@breaks("RESP-4")
class FinalTextIsAnother(Capable):
    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        for event in super().events(asked, body, chat):
            for item in event.get("response", {}).get("output", []):
                item["content"][0]["text"] += "."
            yield event


@breaks("RESP-5", also={"RESP-10", "SHAPE-6"})
class ErrorsOfResponsesAreText(Capable):
    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        reply = super().refusal(asked, refused)
        return Reply(reply.status, {"error": "no"}) if asked.path == RESPONSES else reply


@breaks("RESP-5")
class TemperatureOfResponsesMayBeText(Capable):
    def response_rules(self) -> dict[str, Rule]:
        rules = super().response_rules()
        return {name: rule for name, rule in rules.items() if name != "temperature"}


@breaks("RESP-6", also={"RESP-11"})
class InputMustBeText(Capable):
    def response_rules(self) -> dict[str, Rule]:
        return super().response_rules() | {"input": lambda value: isinstance(value, str)}


@breaks("RESP-6")
class InstructionsAreRefused(Capable):
    def demand_response(self, body: Body) -> None:
        super().demand_response(body)
        if body.get("instructions"):
            raise Refused(400, "no instructions, please", "unsupported_parameter", "instructions")


@breaks("RESP-7")
class NothingIsRecalled(Capable):
    def recall(self, name: str) -> Reply:
        raise Refused(404, "no such response", "response_not_found")


@breaks("RESP-7")
class RecalledWithoutItsText(Capable):
    def recall(self, name: str) -> Reply:
        reply = super().recall(name)
        body: Any = reply.body
        return Reply(reply.status, body | {"output": []})


@breaks("RESP-8")
class NothingIsContinued(Capable):
    def demand_previous(self, body: Body) -> None:
        super().demand_previous({"previous_response_id": body.get("previous_response_id") and ""})


@breaks("RESP-8")
class PreviousResponseIsNotNamed(Capable):
    def beginning(self, body: Body) -> dict[str, Any]:
        return super().beginning(body) | {"previous_response_id": None}


@breaks("RESP-9")
class EverythingIsStored(Capable):
    def kept(self, body: Body, response: dict[str, Any]) -> dict[str, Any]:
        return super().kept(body | {"store": True}, response)


@breaks("RESP-10")
class UnknownConversationIsBegun(Capable):
    def demand_previous(self, body: Body) -> None:
        return


@breaks("RESP-11")
class OwnOutputIsRefused(Capable):
    def message(self, text: str, status: str) -> dict[str, Any]:
        return super().message(text, status) | {"phase": None}

    def demand_response(self, body: Body) -> None:
        super().demand_response(body)
        given = body["input"]
        if isinstance(given, list) and any("phase" in item for item in given):
            self.refuse_value("input")
