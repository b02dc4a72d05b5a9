"""`python -m service`: flags, environment and defaults into settings, settings into a running server."""

from __future__ import annotations

import logging
import signal
import sys

import uvicorn

from service.app import create_app
from service.settings import from_arguments

_log = logging.getLogger("service")


def main() -> None:
    """Serve until asked to end."""
    settings = from_arguments(sys.argv[1:])
    # uvicorn ends orderly and then raises the signal once more, for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_app(settings)
    if not settings.is_loopback() and settings.api_key is None:
        _log.warning("Listening on %s without an API_KEY: anyone can use it.", settings.host)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        access_log=False,
    )


if __name__ == "__main__":
    main()
