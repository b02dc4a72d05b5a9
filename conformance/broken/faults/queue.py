"""Wrong permits and queues."""

from conformance.broken.fault import breaks
from conformance.broken.miniature import Miniature, Refused


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
