"""Wrong permits and queues."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked, Miniature, Refused, Reply


@breaks("QUEUE-1")
class OneMoreOfMany(Miniature):
    def has_permit(self) -> bool:
        n_permits = int(self.options["max_concurrency"])
        return self.n_generating < n_permits + (n_permits > 1)


@breaks("QUEUE-2", also={"CFG-6", "CFG-16"})
class WaitsForEver(Miniature):
    def refuse_late(self) -> None:
        self.lock.wait_for(self.has_permit)


@breaks("QUEUE-2")
class LateRefusalIsText(Miniature):
    def refuse_late(self) -> None:
        refused = Refused(503, "waited too long", "queue_timeout", Retry_After="1")
        refused.reply.body = "waited too long"
        raise refused


@breaks("QUEUE-2")
class LateRefusalIsABug(Miniature):
    def refuse_late(self) -> None:
        raise Refused(500, "waited too long", "queue_timeout")


@breaks("QUEUE-3", also={"CFG-17"})
class QueueHasOnePlaceMore(Miniature):
    def has_place(self) -> bool:
        return self.n_waiting <= int(self.options["queue_size"])


@breaks("QUEUE-3")
class FullQueueIs503(Miniature):
    def refuse_full(self) -> None:
        raise Refused(503, "the queue is full", "queue_full", Retry_After="1")


@breaks("QUEUE-3")
class FullQueueWithoutRetryAfter(Miniature):
    def refuse_full(self) -> None:
        raise Refused(429, "the queue is full", "queue_full")


@breaks("QUEUE-1")
class OneMoreOfThree(Miniature):
    def has_permit(self) -> bool:
        n_permits = int(self.options["max_concurrency"])
        return self.n_generating < n_permits + (n_permits > 2)


@breaks("QUEUE-2", also={"CFG-6", "CFG-16"})
class ShortTimeoutIsInMilliseconds(Miniature):
    def __init__(self, options: dict[str, Any]) -> None:
        seconds = options["queue_timeout"]
        super().__init__(options | {"queue_timeout": seconds / (1000 if seconds < 10 else 1)})


@breaks("QUEUE-2", also={"CFG-6", "CFG-16"})
class TimeoutIsInMinutes(Miniature):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options | {"queue_timeout": options["queue_timeout"] * 60})


@breaks("QUEUE-4")
class WholeChatsPassTheQueue(Capable):
    def chat(self, asked: Asked) -> Reply:
        body = self.read(asked)
        if body.get("stream"):
            return super().chat(asked)
        self.demand_chat(body)
        self.find_model(body)
        self.log_processing(asked)
        return Reply(200, self.complete(asked, body))


@breaks("QUEUE-4")
class ResponsesPassTheQueue(Capable):
    def other(self, asked: Asked) -> Reply:
        if asked.path != "/v1/responses":
            return super().other(asked)
        with self.lock:
            self.n_generating -= 1
        try:
            return super().other(asked)
        finally:
            with self.lock:
                self.n_generating += 1


@breaks("QUEUE-5")
class PermitsLeaveWithClients(Miniature):
    @contextmanager
    def permit(self) -> Iterator[None]:
        with self.lock:
            self.take_permit()
        try:
            yield
        except GeneratorExit:
            raise
        with self.lock:
            self.n_generating -= 1
            self.lock.notify_all()


@breaks("QUEUE-5")
class RefusedKeepTheirPermits(Capable):
    def refuse_value(self, name: str) -> None:
        with self.lock:
            self.n_generating += 1
        super().refuse_value(name)
