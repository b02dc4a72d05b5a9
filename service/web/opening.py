"""
The first moment of a server, before its socket is open: where it will listen, and who is told.

uvicorn runs an app's startup before it binds, so that SERVER_HOST and SERVER_PORT can hold under its own
command line, too, as far as that does not say otherwise. gunicorn binds in its parent process, and uvicorn
does with `--reload`, `--workers`, `--fd` or `--uds`: what is not heeded there is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import click
import uvicorn
from click.core import ParameterSource

from service.settings import Settings, is_loopback, needs_key
from service.web import servers
from service.web.terminal import Terminal

_log = logging.getLogger(__name__)

_VARIABLES = {"SERVER_HOST": "host", "SERVER_PORT": "port"}
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


# One event loop takes some 40 us a token: 20,000 tokens a second, more than the models on one machine make.
ONE_WORKER = (
    "This server has one worker, and {} were asked for: each would load the models again and keep responses "
    "of its own. MAX_CONCURRENCY lets more requests generate at once."
)


class Opening:
    """
    What is done when a server begins.

    Args:
        settings: how it was started.
        terminal: where the start is told.
    """

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal

    def __call__(self, lifespan_send: object) -> str | None:
        """Do it; *lifespan_send* is the `send` of the ASGI lifespan. Return why the server may not begin."""
        if (n_workers := servers.n_workers(lifespan_send)) > 1:
            return ONE_WORKER.format(n_workers)
        servers.limit(lifespan_send)
        config = servers.uvicorn_of(lifespan_send)
        for variable in unheeded(self._settings, config, os.environ):
            _log.warning("%s is not read here: the server's own options decide.", variable)
        if config is not None and not is_loopback(config.host) and not needs_key(self._settings):
            _log.warning("Listening on %s without an API_KEY: anyone can use it.", config.host)
        self._terminal.start(None if config is None else url_of(config))
        return None


def unheeded(
    settings: Settings, config: uvicorn.Config | None, environment: Mapping[str, str]
) -> list[str]:
    """Have uvicorn listen where the environment says; return the variables that can't be heeded."""
    found = []
    for variable, name in _VARIABLES.items():
        wanted = getattr(settings, name)
        if variable not in environment or getattr(config, name, None) == wanted:
            continue
        if config is not None and _is_free(config, name):
            setattr(config, name, wanted)
        else:
            found.append(variable)
    return found


def _is_free(config: uvicorn.Config, name: str) -> bool:
    """Tell whether uvicorn's own command line leaves *name* open, and has not bound a socket yet."""
    context = click.get_current_context(silent=True)
    if context is None or context.command is not uvicorn.main:
        return False
    is_bound = config.should_reload or config.workers > 1 or config.fd is not None or config.uds
    return not is_bound and context.get_parameter_source(name) is ParameterSource.DEFAULT


def url_of(config: uvicorn.Config) -> str | None:
    """Return where a client on this machine reaches the server; None: nobody knows."""
    if config.fd is not None or config.uds is not None or not config.port:
        return None
    host = _ANYWHERE.get(config.host, config.host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if config.is_ssl else 'http'}://{shown}:{config.port}"
