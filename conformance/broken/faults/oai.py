"""Wrong completions, streams and errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import CHAT, Asked, Miniature, Refused, Reply


@breaks("OAI-1", also={"IMG-1", "PARAM-8", "PARAM-16", "PAT-3", "SHAPE-4", "TOOLS-1", "TOOLS-6"})
class MessageWithoutRole(Miniature):
    def complete(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        found = super().complete(asked, body)
        del found["choices"][0]["message"]["role"]
        return found


@breaks(
    "OAI-1",
    also={
        "IMG-1",
        "PARAM-1",
        "PARAM-2",
        "PARAM-8",
        "PARAM-9",
        "PARAM-16",
        "PAT-3",
        "SHAPE-4",
        "TOOLS-1",
        "TOOLS-2",
        "TOOLS-3",
        "TOOLS-6",
        "TOOLS-10",
    },
)
class FinishReasonIsError(Miniature):
    def complete(self, asked: Asked, body: dict[str, Any]) -> dict[str, Any]:
        found = super().complete(asked, body)
        found["choices"][0]["finish_reason"] = "error"
        return found


@breaks("OAI-2")
class DoneTwice(Miniature):
    def stream(self, asked: Asked, body: dict[str, Any]) -> Iterator[str]:
        yield from super().stream(asked, body)
        yield "[DONE]"


@breaks("OAI-2")
class DoneIsMissing(Miniature):
    def stream(self, asked: Asked, body: dict[str, Any]) -> Iterator[str]:
        return (data for data in super().stream(asked, body) if data != "[DONE]")


@breaks("OAI-2")
class FirstDeltaWithoutRole(Miniature):
    def chunks(self, asked: Asked, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        chunks = super().chunks(asked, body)
        next(chunks)
        return chunks


@breaks("OAI-2")
class FinishReasonTwice(Miniature):
    def chunks(self, asked: Asked, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in super().chunks(asked, body):
            yield chunk
            if chunk["choices"] and chunk["choices"][0]["finish_reason"]:
                yield chunk


@breaks("OAI-2")
class UsageInTheLastChoice(Miniature):
    def chunks(self, asked: Asked, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in super().chunks(asked, body):
            yield chunk if chunk["choices"] else chunk | self.choice({})


@breaks(
    "OAI-2",
    also={
        "COMPL-2",
        "COMPL-3",
        "COMPL-6",
        "LOGP-5",
        "MSG-2",
        "MSG-4",
        "MSG-7",
        "PARAM-2",
        "PARAM-4",
        "PARAM-9",
        "RESP-1",
        "RESP-3",
        "SCHEMA-1",
        "SHAPE-4",
        "TOOLS-3",
        "TOOLS-5",
        "TOOLS-10",
    },
)
class StreamAsPlainText(Miniature):
    def streamed(self, asked: Asked, events: Iterator[str]) -> Reply:
        reply = super().streamed(asked, events)
        return Reply(200, headers={"Content-Type": "text/plain"}, events=reply.events)


@breaks("OAI-2", also={"SHAPE-5"})
class ChunksOfAnotherKind(Miniature):
    def frame(self, kind: str) -> dict[str, Any]:
        return super().frame(kind.removesuffix(".chunk"))


@breaks(
    "OAI-3",
    also={
        "COMPL-4",
        "COMPL-10",
        "COMPL-11",
        "EMB-7",
        "EMB-8",
        "IMG-3",
        "IMG-4",
        "LOGP-7",
        "MSG-9",
        "PARAM-5",
        "PARAM-7",
        "RESP-5",
        "RESP-10",
        "SCHEMA-5",
        "SCHEMA-6",
        "TOK-4",
        "TOOLS-9",
    },
)
class InvalidJsonIsOurFault(Miniature):
    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        reply = super().refusal(asked, refused)
        return Reply(500, reply.body) if reply.status == 400 else reply


@breaks(
    "OAI-3",
    also={
        "IMG-3",
        "IMG-4",
        "LOGP-7",
        "OAI-4",
        "PARAM-5",
        "PARAM-6",
        "PARAM-7",
        "PARAM-12",
        "SCHEMA-5",
        "SCHEMA-6",
        "SHAPE-6",
        "TOOLS-9",
    },
)
class ErrorWithoutParam(Miniature):
    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        reply = super().refusal(asked, refused)
        body: Any = reply.body
        if asked.path == CHAT:
            del body["error"]["param"]
        return reply


@breaks("OAI-4", also={"SHAPE-6"})
class NotFoundByAccept(Miniature):
    def other(self, asked: Asked) -> Reply:
        if "xml" in asked.headers.get("Accept", ""):
            return Reply(404, "<error/>", {"Content-Type": "application/xml"})
        return super().other(asked)


@breaks("OAI-4", also={"SHAPE-6"})
class WrongMethodInPlainText(Miniature):
    def demand_method(self, asked: Asked, *methods: str) -> None:
        try:
            super().demand_method(asked, *methods)
        except Refused as refused:
            refused.reply.body = {"detail": "Method Not Allowed"}
            raise


@breaks("OAI-5", also={"RESP-1", "RESP-6", "RESP-8", "RESP-11"})
class TotalIsTheCompletion(Miniature):
    def usage(self, n_tokens: int) -> dict[str, int]:
        return super().usage(n_tokens) | {"total_tokens": n_tokens}


@breaks("OAI-6")
class StreamComesAtItsEnd(Capable):
    def stream(self, asked: Asked, body: dict[str, Any]) -> Iterator[str]:
        yield from list(super().stream(asked, body))


@breaks("OAI-7")
class OneWhoLeavesTakesAllPermits(Miniature):
    @contextmanager
    def permit(self) -> Iterator[None]:
        with self.lock:
            self.take_permit()
        try:
            yield
        except GeneratorExit:
            self.n_generating += int(self.options["max_concurrency"])
            raise
        with self.lock:
            self.n_generating -= 1
            self.lock.notify_all()
