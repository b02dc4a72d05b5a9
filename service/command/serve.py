"""Settings into a running server: `tier3a serve` and `python -m service`."""

from __future__ import annotations

import signal
import sys

import uvicorn

from service.app import create_app
from service.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until asked to end."""
    # uvicorn ends orderly and then raises the signal once more, for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = create_app(settings)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        access_log=False,
        log_config=None,  # its lines have our form
    )
