"""Wrong messages."""

from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.messaging import Block, Event
from conformance.broken.miniature import Asked, error
from conformance.broken.rules import Rule
from conformance.broken.seeing import Body
from conformance.broken.talking import Said


@breaks("MSG-1", also={"MSG-5", "MSG-8", "MSG-12"})
class ContentOfMessagesIsText(Capable):
    def blocks(self, said: Said, text: str) -> list[Block]:
        found = super().blocks(said, text)
        return found if said.calls or not text else text  # type: ignore[return-value]  # the fault


@breaks("MSG-1", also={"MSG-2", "MSG-5", "MSG-8", "MSG-12"})
class MessagesCountAsChatsDo(Capable):
    def message_begun(self, body: Body, chat: Body) -> dict[str, Any]:
        return super().message_begun(body, chat) | {"usage": self.usage_of(chat, 1)}


@breaks("MSG-2")
class EventsHaveNoNames(Capable):
    def named(self, data: str) -> str:
        return f"data: {data}\n\n"


@breaks("MSG-2", also={"MSG-7"})
class BlocksAreNotClosed(Capable):
    def message_events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        for event in super().message_events(asked, body, chat):
            if event["type"] != "content_block_stop":
                yield event


@breaks("MSG-2", also={"MSG-4", "MSG-7"})
class StreamDoesNotSayWhyItStops(Capable):
    def message_events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        for event in super().message_events(asked, body, chat):
            yield event | ({"delta": {}} if event["type"] == "message_delta" else {})


@breaks("MSG-3")
class CutMessageEndsItsTurn(Capable):
    def end(self, chat: Body) -> dict[str, Any]:
        found = super().end(chat)
        is_cut = found["stop_reason"] == "max_tokens"
        return found | {"stop_reason": "end_turn"} if is_cut else found


@breaks("MSG-3")
class OneTokenMoreThanTheMessageMay(Capable):
    def as_usual(self, body: Body) -> Body:
        found = super().as_usual(body)
        return found | {"max_tokens": (found["max_tokens"] or 0) + 1}


@breaks("MSG-4")
class StopSequencesArePassedOver(Capable):
    def as_usual(self, body: Body) -> Body:
        return super().as_usual(body) | {"stop": None}


@breaks("MSG-4")
class StopSequenceIsTheFirst(Capable):
    def stop_met(self, chat: Body) -> str | None:
        return self.stop_texts(chat)[0] if super().stop_met(chat) else None


@breaks("MSG-5")
class SystemMustBeText(Capable):
    def message_rules(self) -> dict[str, Rule]:
        return super().message_rules() | {"system": lambda value: isinstance(value, str)}


@breaks("MSG-6", also={"MSG-7"})
class NamedUseIsAny(Capable):
    def usual_choice(self, choice: dict[str, Any]) -> Any:
        return super().usual_choice(choice and {"type": "any"})


@breaks("MSG-6", also={"MSG-7"})
class InputIsText(Capable):
    def use(self, name: str, function: dict[str, Any]) -> Block:
        return super().use(name, function) | {"input": function["arguments"]}


@breaks("MSG-7")
class LastPieceOfInputIsLost(Capable):
    def deltas(self, asked: Asked, chat: Body, block: Block) -> Iterator[dict[str, str]]:
        *others, last = super().deltas(asked, chat, block)
        yield from [*others, *([last] if "text" in block else [])]


@breaks("MSG-8")
class ResultsAreRefused(Capable):
    def demand_message(self, body: Body) -> None:
        super().demand_message(body)
        if "tool_result" in str(body["messages"]):
            self.refuse_value("messages")


@breaks("MSG-9")
class ErrorsOfMessagesAreChats(Capable):
    def message_error(self, kind: str, message: str) -> dict[str, Any]:
        return error(message, kind)


@breaks("MSG-9")
class MessagesNeedNoBound(Capable):
    def demand_message(self, body: Body) -> None:
        super().demand_message({"max_tokens": 1} | body)


@breaks("MSG-10", also={"MSG-11"})
class NothingIsThereToRead(Capable):
    def n_counted(self, chat: Body) -> int:
        return 0


@breaks("MSG-11")
class CountIsAGuess(Capable):
    def n_counted(self, chat: Body) -> int:
        return len(str(chat["messages"])) // 4


@breaks("MSG-12")
class OwnMessageIsRefused(Capable):
    def blocks(self, said: Said, text: str) -> list[Block]:
        found = super().blocks(said, text)
        return [block | {"citations": None} for block in found]

    def demand_message(self, body: Body) -> None:
        super().demand_message(body)
        contents = [message.get("content") for message in body["messages"]]
        blocks = [block for each in contents if isinstance(each, list) for block in each]
        if any(block.get("type") == "text" and "citations" in block for block in blocks):
            self.refuse_value("messages")
