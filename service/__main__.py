"""`python -m service`: flags, environment and defaults into settings, settings into a running server."""

from __future__ import annotations

import sys

from service.command.serve import serve
from service.settings import from_arguments


def main() -> None:
    """Serve until asked to end."""
    serve(from_arguments(sys.argv[1:]))


if __name__ == "__main__":
    main()
