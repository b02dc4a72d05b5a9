"""`python -m service`: flags, environment and defaults into settings, settings into a running server."""

from __future__ import annotations

import sys

import click

from service.command.serve import serve
from service.settings import from_arguments


def main() -> None:
    """Serve until asked to end."""
    settings = from_arguments(sys.argv[1:])
    try:
        serve(settings)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
