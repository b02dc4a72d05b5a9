"""Wrong calls."""

import json
from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Refused
from conformance.broken.seeing import Body
from conformance.broken.talking import Call, Said


@breaks("TOOLS-1", also={"TOOLS-11", "MSG-6", "PARAM-7", "TOOLS-5"})
class RequiredIsAuto(Capable):
    def calls(self, body: Body) -> list[Call]:
        return [] if body.get("tool_choice") == "required" else super().calls(body)


@breaks("TOOLS-1", also={"TOOLS-2", "SHAPE-4"})
class CallsWithoutId(Capable):
    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        found = super().whole(asked, body)
        for call in found["message"].get("tool_calls", []):
            del call["id"]
        return found


@breaks("TOOLS-1", also={"MSG-6", "TOOLS-5", "TOOLS-10"})
class RequiredCallsEndAsStop(Capable):
    def said(self, body: Body) -> Said:
        found = super().said(body)
        is_forced = body.get("tool_choice") == "required"
        return Said(found.tokens, "stop", found.calls) if is_forced else found


@breaks("TOOLS-2", also={"MSG-6", "MSG-7"})
class NamedToolIsTheFirst(Capable):
    def calls(self, body: Body) -> list[Call]:
        if not self.named_tool(body):
            return super().calls(body)
        return [self.call(body["tools"][0]["function"])]


@breaks("TOOLS-2", also={"MSG-6", "MSG-7"})
class NamedChoiceIsAuto(Capable):
    def calls(self, body: Body) -> list[Call]:
        return [] if self.named_tool(body) else super().calls(body)


@breaks("TOOLS-3")
class NoneIsRequired(Capable):
    def calls(self, body: Body) -> list[Call]:
        is_none = body.get("tool_choice") == "none"
        return super().calls(body | {"tool_choice": "required"} if is_none else body)


@breaks("TOOLS-4", also={"MSG-6", "MSG-7", "MSG-8"})
class ArgumentsInWords(Capable):
    def arguments(self, function: dict[str, Any]) -> str:
        return "in kelvin, please"


@breaks("TOOLS-4")
class ArgumentsOutsideTheParameters(Capable):
    def arguments(self, function: dict[str, Any]) -> str:
        return json.dumps(json.loads(super().arguments(function)) | {"mood": "fine"})


@breaks("TOOLS-4")
class StreamedArgumentsAreCut(Capable):
    def call_deltas(self, calls: list[Call]) -> Iterator[dict[str, Any]]:
        *deltas, _last = super().call_deltas(calls) if calls else [{}]
        yield from deltas


@breaks("TOOLS-5", also={"SHAPE-5"})
class DeltasWithoutIndex(Capable):
    def call_deltas(self, calls: list[Call]) -> Iterator[dict[str, Any]]:
        for delta in super().call_deltas(calls):
            yield {name: value for name, value in delta.items() if name != "index"}


@breaks("TOOLS-5")
class IdIsNotInTheFirstDelta(Capable):
    def opening(self, index: int, call: Call) -> dict[str, Any]:
        found = super().opening(index, call)
        del found["id"]
        return found


@breaks("TOOLS-5")
class EachDeltaHasItsOwnId(Capable):
    def call_deltas(self, calls: list[Call]) -> Iterator[dict[str, Any]]:
        for delta in super().call_deltas(calls):
            yield delta | {"id": self.call_id()}


@breaks("TOOLS-5")
class StreamedCallsEndAsStop(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        for chunk in super().choice_chunks(asked, body):
            if chunk["choices"][0]["finish_reason"] == "tool_calls":
                chunk["choices"][0]["finish_reason"] = "stop"
            yield chunk


@breaks("TOOLS-6")
class ToolRoleIsUnknown(Capable):
    def demand_supported(self, body: Body) -> None:
        if any(message["role"] == "tool" for message in body["messages"]):
            raise Refused(400, "there is no such role", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("TOOLS-6")
class ResultMustBeText(Capable):
    def demand_supported(self, body: Body) -> None:
        for message in body["messages"]:
            if message["role"] == "tool" and not isinstance(message["content"], str):
                raise Refused(400, "results are text", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("TOOLS-7")
class AllCallsAreCalledAlike(Capable):
    def call_id(self) -> str:
        return "call_1"


@breaks("TOOLS-8")
class CallsAreAlwaysParallel(Capable):
    def calls(self, body: Body) -> list[Call]:
        return super().calls(body | {"parallel_tool_calls": True})


@breaks("TOOLS-9")
class UnknownFunctionIsPassedOver(Capable):
    def demand_tools(self, body: Body) -> None:
        super().demand_tools(body | {"tool_choice": None} if self.named_tool(body) else body)


@breaks("TOOLS-9")
class CallsWithoutToolsArePassedOver(Capable):
    def demand_tools(self, body: Body) -> None:
        if body.get("tools"):
            super().demand_tools(body)


@breaks("TOOLS-9")
class ParametersMayBeAnything(Capable):
    def demand_tools(self, body: Body) -> None:
        tools = [
            tool | {"function": {"name": tool["function"]["name"]}}
            for tool in body.get("tools") or []
        ]
        super().demand_tools(body | {"tools": tools})


@breaks("TOOLS-10")
class CutCallEndsAsCalled(Capable):
    def within(self, said: Said, n_tokens: int) -> Said:
        found = super().within(said, n_tokens)
        return Said(found.tokens, "tool_calls", found.calls, found.n_unsaid)


@breaks("TOOLS-11")
class CutCallIsText(Capable):
    def within(self, said: Said, n_tokens: int) -> Said:
        found = super().within(said, n_tokens)
        return found if found.calls else Said(["{", '"', "name"][:n_tokens], "length")


@breaks("TOOLS-11")
class CutArgumentsLoseTheirBeginning(Capable):
    def within(self, said: Said, n_tokens: int) -> Said:
        found = super().within(said, n_tokens)
        if found.calls:
            return found
        call = said.calls[0]
        called = call["function"] | {"arguments": call["function"]["arguments"][1:3]}
        cut = Said([], "length", [call | {"function": called}])
        cut.n_unsaid = n_tokens - cut.n_tokens
        return cut
