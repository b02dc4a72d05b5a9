"""Wrong log probabilities."""

from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked
from conformance.broken.rules import Rule, whole
from conformance.broken.seeing import Body


@breaks("LOGP-1", also={"COMPL-8", "COMPL-9", "LOGP-5"})
class LogprobsArePositive(Capable):
    def entry(self, token: str, rank: int) -> dict[str, Any]:
        found = super().entry(token, rank)
        return found | {"logprob": -found["logprob"]}


@breaks("LOGP-1", also={"LOGP-5"})
class EntriesWithoutBytes(Capable):
    def entry(self, token: str, rank: int) -> dict[str, Any]:
        found = super().entry(token, rank)
        del found["bytes"]
        return found


@breaks("LOGP-1", also={"LOGP-2"})
class LastTokenHasNoEntry(Capable):
    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        found = super().whole(asked, body)
        if "logprobs" in found:
            del found["logprobs"]["content"][-1]
        return found


@breaks("LOGP-2", also={"LOGP-5"})
class BytesAreAsciiOnly(Capable):
    def entry(self, token: str, rank: int) -> dict[str, Any]:
        return super().entry(token, rank) | {"bytes": list(token.encode("ascii", "ignore"))}


@breaks("LOGP-3")
class OneAlternativeTooMany(Capable):
    def top(self, token: str, n_top: int) -> list[dict[str, Any]]:
        return super().top(token, n_top + 1)


@breaks("LOGP-3")
class LikeliestComesLast(Capable):
    def top(self, token: str, n_top: int) -> list[dict[str, Any]]:
        return super().top(token, n_top)[::-1]


@breaks("LOGP-3")
class ProbabilitiesExceedOne(Capable):
    def entry(self, token: str, rank: int) -> dict[str, Any]:
        return super().entry(token, 0)


@breaks("LOGP-3")
class StreamWithoutAlternatives(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().choice_chunks(asked, body | {"top_logprobs": 0})


@breaks("LOGP-4")
class ChosenIsNotTheLikeliest(Capable):
    def logged(self, token: str, n_top: int) -> dict[str, Any]:
        top = [self.entry("better", 0), *(self.entry(token, rank) for rank in range(1, n_top))]
        return self.entry(token, 1) | {"top_logprobs": top}


@breaks("LOGP-4")
class ChosenHasAnotherProbability(Capable):
    def logged(self, token: str, n_top: int) -> dict[str, Any]:
        top = [self.entry(token, rank + 1) for rank in range(n_top)]
        return self.entry(token, 0) | {"top_logprobs": top}


@breaks("LOGP-5")
class StreamWithoutEntries(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().choice_chunks(asked, body | {"logprobs": None})


@breaks("LOGP-5")
class EachChunkHasTheFirstEntry(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        first = next(self.ticks(body))
        for chunk in super().choice_chunks(asked, body):
            if chunk["choices"][0].get("logprobs"):
                chunk["choices"][0] |= self.logprobs([first], body)
            yield chunk


@breaks("LOGP-6")
class EntriesComeUnasked(Capable):
    def logprobs(self, tokens: list[str], body: Body) -> dict[str, Any]:
        return super().logprobs(tokens, body | {"logprobs": True})


@breaks("LOGP-7", also={"SHAPE-4"})
class AnyNumberOfAlternatives(Capable):
    def rules(self) -> dict[str, Rule]:
        return super().rules() | {"top_logprobs": whole(0)}


@breaks("LOGP-7")
class AlternativesOfNothing(Capable):
    def demand_tops(self, body: Body) -> None:
        return
