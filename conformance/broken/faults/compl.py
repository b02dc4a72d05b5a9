"""Wrong completions."""

from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.completing import Prompt
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Refused
from conformance.broken.rules import Rule, prompts
from conformance.broken.seeing import Body


@breaks("COMPL-1")
class CompletionIsAChat(Capable):
    def completion(self, asked: Asked, body: Body) -> dict[str, Any]:
        return super().completion(asked, body) | {"object": "chat.completion"}


@breaks("COMPL-1")
class TextIsAMessage(Capable):
    def completion(self, asked: Asked, body: Body) -> dict[str, Any]:
        found = super().completion(asked, body)
        for choice in found["choices"]:
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        return found


@breaks("COMPL-2")
class CompletionStreamJustEnds(Capable):
    def completion_stream(self, asked: Asked, body: Body) -> Iterator[str]:
        return (data for data in super().completion_stream(asked, body) if data != "[DONE]")


@breaks("COMPL-2")
class EachPieceEndsItsChoice(Capable):
    def completion_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        end = self.said(body).ending
        for chunk in super().completion_chunks(asked, body):
            yield chunk | {"choices": [each | {"finish_reason": end} for each in chunk["choices"]]}


@breaks("COMPL-2")
class CompletionStreamHasNoUsage(Capable):
    def completion_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().completion_chunks(asked, body | {"stream_options": None})


@breaks("COMPL-3", also={"COMPL-4", "COMPL-12"})
class OnlyTheFirstPromptIsCompleted(Capable):
    def prompts(self, body: Body) -> list[Prompt]:
        return super().prompts(body)[:1]


@breaks("COMPL-3")
class ChoicesAreInAnotherOrder(Capable):
    def numbered(self, body: Body) -> Iterator[tuple[int, Prompt]]:
        yield from enumerate(prompt for _, prompt in [*super().numbered(body)][::-1])


@breaks("COMPL-4")
class PromptsAreNoTokens(Capable):
    def demand_completion(self, body: Body) -> None:
        super().demand_completion(body)
        if not isinstance(self.prompts(body)[0], str):
            self.refuse_value("prompt")


@breaks("COMPL-4")
class AnyNumberIsAToken(Capable):
    def completion_rules(self) -> dict[str, Rule]:
        def is_prompt(value: object) -> bool:
            return prompts(value) or isinstance(value, list)

        return super().completion_rules() | {"prompt": is_prompt}

    def prompt_text(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else "?"


@breaks("COMPL-5")
class CompletionsAreUnbound(Capable):
    def complete_texts(self, asked: Asked) -> Any:
        asked.body = asked.body.replace(b'"max_tokens": 3', b'"max_tokens": 30')
        return super().complete_texts(asked)


@breaks("COMPL-5")
class CutCompletionEndsAsStop(Capable):
    def text_choice(self, index: int, text: str, end: str | None) -> dict[str, Any]:
        return super().text_choice(index, text, end and "stop")


@breaks("COMPL-6")
class CompletionsPassOverStops(Capable):
    def completion(self, asked: Asked, body: Body) -> dict[str, Any]:
        return super().completion(asked, body | {"stop": None})


@breaks("COMPL-6")
class CompletionStreamsPassOverStops(Capable):
    def completion_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().completion_chunks(asked, body | {"stop": None})


@breaks("COMPL-7", also={"COMPL-9"})
class NothingIsEchoed(Capable):
    def echoed(self, prompt: Prompt, body: Body) -> list[str]:
        return []


@breaks("COMPL-8")
class ListsLackTheirOffsets(Capable):
    def lists(self, tokens: list[str], n_top: int) -> dict[str, list[Any]]:
        return super().lists(tokens, n_top) | {"text_offset": []}


@breaks("COMPL-8", also={"COMPL-9"})
class OffsetsStandStill(Capable):
    def lists(self, tokens: list[str], n_top: int) -> dict[str, list[Any]]:
        return super().lists(tokens, n_top) | {"text_offset": [0] * len(tokens)}


@breaks("COMPL-9")
class FirstTokenFollowsSomething(Capable):
    def beginning_with_nothing(self, lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return lists


@breaks("COMPL-9")
class EchoHasNoLogprobs(Capable):
    def text_logprobs(self, tokens: list[str], prompt: Prompt, body: Body) -> dict[str, Any]:
        n_echoed = len(self.echoed(prompt, body))
        return super().text_logprobs(tokens[n_echoed:], prompt, body)


@breaks("COMPL-9")
class ScoringGoesOn(Capable):
    def bound(self, body: Body) -> int | None:
        return super().bound(body) or None


@breaks("COMPL-10")
class SuffixIsPassedOver(Capable):
    def demand_completion(self, body: Body) -> None:
        super().demand_completion(body | {"suffix": None})


@breaks("COMPL-10")
class SuffixIsRefusedWithoutAName(Capable):
    def demand_completion(self, body: Body) -> None:
        if body.get("suffix"):
            raise Refused(400, "nothing can stand behind", "unsupported_parameter")
        super().demand_completion(body)


@breaks("COMPL-11")
class TemperatureOfCompletionsMayBeText(Capable):
    def completion_rules(self) -> dict[str, Rule]:
        rules = super().completion_rules()
        return {name: rule for name, rule in rules.items() if name != "temperature"}


@breaks("COMPL-12")
class OnlyTheLastPromptIsCounted(Capable):
    def completion_usage(self, body: Body) -> dict[str, int]:
        found = super().completion_usage(body)
        n_prompt = self.n_prompt_tokens(self.prompts(body)[-1])
        total = n_prompt + found["completion_tokens"]
        return found | {"prompt_tokens": n_prompt, "total_tokens": total}


@breaks("COMPL-12")
class OneChoiceOfEachIsCounted(Capable):
    def completion_usage(self, body: Body) -> dict[str, int]:
        return super().completion_usage(body | {"n": None})
