"""Wrong request ids."""

import time

from conformance.broken.fault import breaks
from conformance.broken.miniature import LOG, Asked, Miniature, Refused, Reply


@breaks("RID-1")
class IdInLowerCase(Miniature):
    def echo(self, given: str) -> str:
        return given.lower()


@breaks("RID-1")
class IdCutAt64(Miniature):
    def echo(self, given: str) -> str:
        return given[:64]


@breaks("RID-2", also={"RID-8"})
class IdIsACounter(Miniature):
    def new_id(self, given: list[str]) -> str:
        return f"req-{next(self.numbers)}"


@breaks("RID-3")
class IdIsForever(Miniature):
    def new_id(self, given: list[str]) -> str:
        return "00000000-0000-4000-8000-000000000000"


@breaks("RID-4", also={"RID-2", "RID-6"})
class NoIdOn404(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.status == 404 else super().ids_of(asked, reply)


@breaks("RID-4", also={"RID-1"})
class TwoIdsOnStreams(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return super().ids_of(asked, reply) * (2 if reply.events else 1)


@breaks("RID-4")
class NoIdOnPreflight(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if asked.method == "OPTIONS" else super().ids_of(asked, reply)


@breaks("RID-4")
class NoIdOn503(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.status == 503 else super().ids_of(asked, reply)


@breaks("RID-5", also={"RID-1"})
class HeaderByExactCase(Miniature):
    def given_ids(self, asked: Asked) -> list[str]:
        return [value for name, value in asked.headers.items() if name == "X-Request-ID"]


@breaks("RID-6", also={"RID-1"})
class IdSharedBetweenRequests(Miniature):
    last_id = ""

    def answer(self, asked: Asked) -> Reply:
        self.last_id = asked.request_id
        time.sleep(0.005)
        reply = super().answer(asked)
        asked.request_id = self.last_id
        return reply


@breaks("RID-7", also={"LOG-1", "LOG-8"})
class StartLoggedWithoutId(Miniature):
    def log_started(self, asked: Asked) -> None:
        LOG.info("Request started: %s %s", asked.method, asked.path)


@breaks("RID-8")
class HostileIdKept(Miniature):
    def new_id(self, given: list[str]) -> str:
        return given[0] if given else super().new_id(given)


@breaks("RID-8")
class HostileIdLogged(Miniature):
    def new_id(self, given: list[str]) -> str:
        if given:
            LOG.info("replaced %s", given[0])
        return super().new_id(given)


@breaks("RID-9")
class FormTypeIsRefused(Miniature):
    def chat(self, asked: Asked) -> Reply:
        if "form" in asked.headers.get("Content-Type", ""):
            raise Refused(415, "JSON only", "unsupported_media_type")
        return super().chat(asked)


@breaks("RID-1")
class RefusalsHaveTheirOwnIds(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [self.new_id([])] if reply.status == 400 else super().ids_of(asked, reply)


@breaks("RID-1")
class FullQueueHasItsOwnId(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [self.new_id([])] if reply.status == 429 else super().ids_of(asked, reply)


@breaks("RID-4")
class NoIdOnResponses(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        is_response = asked.path.startswith("/v1/responses")
        return [] if is_response else super().ids_of(asked, reply)


@breaks("RID-4")
class NoIdOn413(Miniature):
    def ids_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.status == 413 else super().ids_of(asked, reply)


@breaks("RID-7")
class LinesHaveTheLatestId(Miniature):
    latest_id = ""

    def log_started(self, asked: Asked) -> None:
        self.latest_id = asked.request_id
        super().log_started(asked)

    def log_completed(self, asked: Asked, status: int) -> None:
        asked.request_id = self.latest_id
        super().log_completed(asked, status)
