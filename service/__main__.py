"""`python -m service`: flags, environment and defaults into settings, settings into a running server."""

from __future__ import annotations

import sys

import uvicorn

from service.app import create_app
from service.settings import from_arguments


def main() -> None:
    """Serve until asked to end."""
    settings = from_arguments(sys.argv[1:])
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        access_log=False,
    )


if __name__ == "__main__":
    main()
