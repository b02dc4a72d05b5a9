"""Wrong times."""

from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Miniature, Reply


@breaks("PT-1")
class NoTimeOnStreams(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.events else super().times_of(asked, reply)


@breaks("PT-1", also={"PT-5"})
class TimeWithUnit(Miniature):
    def time_text(self, seconds: float) -> str:
        return super().time_text(seconds) + " s"


@breaks("PT-2")
class TimeInMilliseconds(Miniature):
    def time_text(self, seconds: float) -> str:
        return super().time_text(seconds * 1000)


@breaks("PT-3")
class TimeOfTheFirstStep(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [self.time_text(0.0001)]


@breaks("PT-4", also={"LOG-5"})
class TimeUnlikeTheLog(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        asked.at_s -= 1
        super().log_completed(asked, status)


@breaks("PT-5")
class NoTimeOnErrors(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if 400 <= reply.status < 500 else super().times_of(asked, reply)


@breaks("PT-5")
class NoTimeOn503(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.status == 503 else super().times_of(asked, reply)


@breaks("PT-1")
class NoTimeOnMessages(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        is_message = asked.path == "/v1/messages" and reply.status == 200
        return [] if is_message else super().times_of(asked, reply)


@breaks("PT-5")
class NoTimeOnFullQueue(Miniature):
    def times_of(self, asked: Asked, reply: Reply) -> list[str]:
        return [] if reply.status == 429 else super().times_of(asked, reply)
