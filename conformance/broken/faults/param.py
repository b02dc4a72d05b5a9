"""Wrong ways with a chat's parameters."""

import json
import random
from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Refused, Reply
from conformance.broken.rules import Rule, turns
from conformance.broken.seeing import Body
from conformance.broken.talking import Call, Said


@breaks("PARAM-1", also={"COMPL-5", "COMPL-9", "MSG-3", "RESP-2"})
class OneTokenMore(Capable):
    def n_tokens(self, body: Body) -> int:
        return super().n_tokens(body) + 1


@breaks("PARAM-1")
class MaxCompletionTokensIsUnknown(Capable):
    def n_tokens(self, body: Body) -> int:
        return super().n_tokens(body | {"max_completion_tokens": None})


@breaks("PARAM-1", also={"COMPL-5", "MSG-3", "RESP-2"})
class CutEndsAsStop(Capable):
    def end_of(self, body: Body) -> str:
        return "stop"


@breaks("PARAM-1", also={"PARAM-9", "TOOLS-10"})
class CutStreamEndsAsStop(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        for chunk in super().choice_chunks(asked, body):
            if chunk["choices"][0]["finish_reason"] == "length":
                chunk["choices"][0]["finish_reason"] = "stop"
            yield chunk


@breaks("PARAM-2", also={"COMPL-6", "MSG-4"})
class StopIsPassedOver(Capable):
    def stop_texts(self, body: Body) -> list[str]:
        return []


@breaks("PARAM-2", also={"COMPL-6", "MSG-4"})
class OnlyTheFirstStopCounts(Capable):
    def stop_texts(self, body: Body) -> list[str]:
        return super().stop_texts(body)[:1]


@breaks("PARAM-2")
class StopIsPassedOverInStreams(Capable):
    def chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().chunks(asked, body | {"stop": None})


@breaks("PARAM-2", also={"COMPL-6", "MSG-4"})
class StopTextIsSaid(Capable):
    def stopped(self, said: Said, stops: list[str]) -> Said:
        found = super().stopped(said, stops)
        return Said([*found.tokens, *stops[-1:]], found.ending, found.calls)


@breaks("PARAM-2")
class StreamsSayWhereStopsBegin(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        *others, last = super().choice_chunks(asked, body)
        yield from others
        if last["choices"][0]["finish_reason"] == "stop":
            for stop in self.stop_texts(body)[-1:]:
                yield self.choice({"content": stop[:-1]})
        yield last


@breaks("PARAM-2", also={"COMPL-6", "MSG-4", "PARAM-13"})
class StopTextIsLeftOut(Capable):
    def stopped(self, said: Said, stops: list[str]) -> Said:
        text = "".join(said.tokens)
        for stop in stops:
            text = text.replace(stop, "")
        return Said([text], said.ending) if stops else said


@breaks("PARAM-2", also={"COMPL-6"})
class StoppedEndsAsLength(Capable):
    def stopped(self, said: Said, stops: list[str]) -> Said:
        return Said(super().stopped(said, stops).tokens, said.ending, said.calls)


@breaks("PARAM-3")
class SeedIsPassedOver(Capable):
    def seed(self, body: Body) -> int:
        return random.randrange(2**31)


@breaks("PARAM-4", also={"COMPL-3", "COMPL-12", "PARAM-11"})
class OneChoiceOnly(Capable):
    def n_choices(self, body: Body) -> int:
        return 1


@breaks("PARAM-4")
class AllChoicesAreTheFirst(Capable):
    def chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        for chunk in super().chunks(asked, body):
            for choice in chunk["choices"]:
                choice["index"] = 0
            yield chunk


@breaks("PARAM-4")
class SeveralChoicesAreRefusedWithoutAName(Capable):
    def demand_supported(self, body: Body) -> None:
        if self.n_choices(body) > 1:
            raise Refused(400, "one answer only", "unsupported_parameter")
        super().demand_supported(body)


@breaks("PARAM-5")
class TemperatureMayBeText(Capable):
    def rules(self) -> dict[str, Rule]:
        return {name: rule for name, rule in super().rules().items() if name != "temperature"}


@breaks("PARAM-5")
class AnythingIsABias(Capable):
    def rules(self) -> dict[str, Rule]:
        return super().rules() | {"logit_bias": lambda value: isinstance(value, dict)}

    def forced_token(self, body: Body) -> str:
        return super().forced_token(body if "100" in (body.get("logit_bias") or {}) else {})


@breaks("PARAM-5")
class MessagesMayBeMissing(Capable):
    def rules(self) -> dict[str, Rule]:
        return super().rules() | {"messages": lambda value: value == [] or turns(value)}


@breaks("PARAM-5")
class WrongValueBreaksTheStream(Capable):
    def chat(self, asked: Asked) -> Reply:
        try:
            return super().chat(asked)
        except Refused as refused:
            if self.read(asked).get("stream") is not True or refused.reply.status != 400:
                raise
            events = iter([json.dumps(refused.reply.body), "[DONE]"])
            return Reply(200, headers={"Content-Type": "text/event-stream"}, events=events)


@breaks("PARAM-6")
class WrongValueIsNotNamed(Capable):
    def demand_rules(self, body: Body) -> None:
        try:
            super().demand_rules(body)
        except Refused:
            raise Refused(400, "something is wrong", "invalid_value") from None


@breaks("PARAM-7")
class LogprobsArePassedOver(Capable):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "logprobs"]

    def logprobs(self, tokens: list[str], body: Body) -> dict[str, Any]:
        return {}


@breaks("PARAM-7")
class ToolsArePassedOver(Capable):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "tools"]

    def calls(self, body: Body) -> list[Call]:
        return []


@breaks("PARAM-7")
class FormIsPassedOver(Capable):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "json_schema"]

    def form(self, body: Body) -> Any:
        return None


@breaks("PARAM-7")
class PictureIsPassedOver(Capable):
    def tags(self) -> list[str]:
        return [tag for tag in super().tags() if tag != "images"]

    def n_picture_tokens(self, body: Body) -> int:
        return 0


@breaks("PARAM-7")
class SoundIsPassedOver(Capable):
    def demand_supported(self, body: Body) -> None:
        return


@breaks("PARAM-7")
class BiasesArePassedOver(Capable):
    def forced_token(self, body: Body) -> str:
        return ""


@breaks("PARAM-8")
class SystemRoleIsRefused(Capable):
    def demand_supported(self, body: Body) -> None:
        if body["messages"][0]["role"] == "system":
            raise Refused(400, "conversations begin with the user", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("PARAM-8")
class DeveloperRoleIsUnknown(Capable):
    def demand_supported(self, body: Body) -> None:
        if body["messages"][0]["role"] == "developer":
            raise Refused(400, "there is no such role", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("PARAM-8")
class OneTextAtMost(Capable):
    def demand_supported(self, body: Body) -> None:
        for message in body["messages"]:
            parts = message["content"] if isinstance(message.get("content"), list) else []
            if message["role"] == "user" and [part["type"] for part in parts] == ["text", "text"]:
                raise Refused(400, "one text at most", "invalid_value", "messages")
        super().demand_supported(body)


@breaks("PARAM-9")
class StreamIsLeftToChance(Capable):
    def chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().chunks(asked, body | {"temperature": 1})


@breaks("PARAM-10")
class UnknownFieldIsRefused(Capable):
    def demand_supported(self, body: Body) -> None:
        if "conformance_field" in body:
            raise Refused(400, "there is no such field", "unknown_parameter", "conformance_field")
        super().demand_supported(body)


@breaks("PARAM-10")
class NullIsAValue(Capable):
    def demand_rules(self, body: Body) -> None:
        super().demand_rules(body)
        for name, rule in self.rules().items():
            if name in body and not rule(body[name]):
                self.refuse_value(name)


@breaks("PARAM-11")
class OneChoiceIsCounted(Capable):
    def usage_of(self, body: Body, n_choices: int) -> dict[str, int]:
        return super().usage_of(body, min(n_choices, 1))


@breaks("PARAM-11")
class EachChoiceCountsThePrompt(Capable):
    def usage_of(self, body: Body, n_choices: int) -> dict[str, int]:
        found = super().usage_of(body, n_choices)
        n_more = max(n_choices - 1, 0) * found["prompt_tokens"]
        counts = {name: found[name] + n_more for name in ("prompt_tokens", "total_tokens")}
        return found | counts


@breaks("PARAM-12")
class UnsupportedIsNotNamed(Capable):
    def demand_supported(self, body: Body) -> None:
        try:
            super().demand_supported(body)
        except Refused as refused:
            raise Refused(400, str(refused), "unsupported_parameter") from None


@breaks("PARAM-13")
class StoppedIsCut(Capable):
    def said(self, body: Body) -> Said:
        found = super().said(body)
        return Said(found.tokens, "length", found.calls) if self.form(body) else found


@breaks("PARAM-14")
class TemperatureIsAlwaysZero(Capable):
    def is_open(self, body: Body) -> bool:
        return False


@breaks("PARAM-15")
class TopPIsPassedOver(Capable):
    def is_open(self, body: Body) -> bool:
        return super().is_open(body | {"top_p": None})


@breaks("PARAM-16")
class OwnAnswerIsRefused(Capable):
    def demand_rules(self, body: Body) -> None:
        super().demand_rules(body)
        if any("refusal" in message for message in body["messages"]):
            raise Refused(400, "a message has no refusal", "invalid_value", "messages")

    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        choice = super().whole(asked, body)
        return choice | {"message": choice["message"] | {"refusal": None}}


@breaks("PARAM-17")
class SecondSystemIsDropped(Capable):
    def read_messages(self, body: Body) -> list[Any]:
        found = super().read_messages(body)
        systems = [each for each in found if each["role"] in {"system", "developer"}]
        return [each for each in found if each not in systems[1:]]


@breaks("PARAM-17")
class QuestionsInARowAreOne(Capable):
    def read_messages(self, body: Body) -> list[Any]:
        found = super().read_messages(body)
        behind = [*found[1:], {"role": ""}]
        return [
            each for each, later in zip(found, behind, strict=True) if each["role"] != later["role"]
        ]
