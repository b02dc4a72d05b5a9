"""Wrong logs."""

import sys
import time

from conformance.broken.fault import breaks
from conformance.broken.miniature import LOG, MODEL_ID, Asked, Miniature


@breaks("LOG-1")
class StartWithoutPath(Miniature):
    def log_started(self, asked: Asked) -> None:
        LOG.info("Request started: %s [request_id=%s]", asked.method, asked.request_id)


@breaks("LOG-2")
class EndWithoutMethod(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        line = "Request completed: %s status=%d duration=%.3fs [request_id=%s]"
        duration_s = time.monotonic() - asked.at_s
        LOG.info(line, self.path_text(asked), status, duration_s, asked.request_id)


@breaks("LOG-2")
class EndAlwaysSays200(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        super().log_completed(asked, 200)


@breaks("LOG-3")
class ProcessingIsCalledHandling(Miniature):
    def log_processing(self, asked: Asked) -> None:
        line = "Handling text request model=%s endpoint=%s [request_id=%s]"
        LOG.info(line, MODEL_ID, asked.path, asked.request_id)


@breaks("LOG-4")
class ModelIsNotLogged(Miniature):
    def log_processing(self, asked: Asked) -> None:
        LOG.info("Processing text request [request_id=%s]", asked.request_id)


@breaks("LOG-5")
class StreamsLoggedInMilliseconds(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        if b'"stream": true' in asked.body:
            asked.at_s -= 1000 * (time.monotonic() - asked.at_s)
        super().log_completed(asked, status)


@breaks("LOG-6")
class LinesWithoutMoment(Miniature):
    def log_format(self) -> str:
        return "%(levelname)s: %(message)s"


@breaks("LOG-7")
class WarningMeansInfo(Miniature):
    def log_level(self) -> str:
        return super().log_level().replace("WARNING", "INFO")


@breaks("LOG-8")
class ErrorsEndTwice(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        for _ in range(1 + (status >= 400)):
            super().log_completed(asked, status)


@breaks("LOG-8")
class VanishedClientsHaveNoEnd(Miniature):
    def log_completed(self, asked: Asked, status: int) -> None:
        if not isinstance(sys.exception(), OSError):
            super().log_completed(asked, status)


@breaks("LOG-8")
class PathsAreLoggedRaw(Miniature):
    def path_text(self, asked: Asked) -> str:
        return asked.path
