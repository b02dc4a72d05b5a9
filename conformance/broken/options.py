"""The miniature's options, by flag and by environment: those of the integration guide, and its pace."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class BadValue(Exception):
    """A value that isn't allowed; the text says what is."""


def boolean(text: str) -> bool:
    """Read true or false."""
    if text.lower() not in {"true", "false"}:
        raise BadValue("must be true or false")
    return text.lower() == "true"


def whole(low: int) -> Callable[[str], int]:
    """Return what reads a whole number from *low* on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise BadValue(f"must be a whole number from {low} on")
        return number

    return read


def seconds(text: str) -> float:
    """Read a time above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise BadValue("must be seconds above 0")
    return number


def one_of(*allowed: str) -> Callable[[str], str]:
    """Return what reads one of a few words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise BadValue(f"must be one of {', '.join(allowed)}")
        return text

    return read


@dataclass(frozen=True)
class Option:
    """One option: its flag, its variable, its default as text, and how it is read."""

    flag: str
    variable: str
    default: str
    read: Callable[[str], Any]

    @property
    def name(self) -> str:
        """How the code calls it."""
        return self.variable.lower()

    @property
    def help(self) -> str:
        """What --help says of it."""
        return f"environment: {self.variable}; default: {self.default or 'none'}"

    def text(self, given: str | None) -> str:
        """Return what counts: what its flag was given, or else its variable, or its default."""
        return given or os.environ.get(self.variable) or self.default


MODEL_TYPES = ("lm", "multimodal", "embeddings", "whisper")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
OPTIONS = (
    Option("--model-path", "MODEL_PATH", "", str),
    Option("--model-type", "MODEL_TYPE", "lm", one_of(*MODEL_TYPES)),
    Option("--context-length", "CONTEXT_LENGTH", "8192", whole(1)),
    Option("--mlx-warmup", "MLX_WARMUP", "true", boolean),
    Option("--host", "SERVER_HOST", "127.0.0.1", str),
    Option("--port", "SERVER_PORT", "8000", whole(1)),
    Option("--max-concurrency", "MAX_CONCURRENCY", "8", whole(1)),
    Option("--queue-timeout", "QUEUE_TIMEOUT", "300", seconds),
    Option("--queue-size", "QUEUE_SIZE", "100", whole(0)),
    Option("--log-level", "LOG_LEVEL", "INFO", one_of(*LEVELS)),
    Option("--token-s", "TOKEN_S", "0.002", seconds),
)


def read(words: Sequence[str], options: Sequence[Option] = OPTIONS) -> dict[str, Any]:
    """
    Return all options by name; a flag beats the environment.

    Raises:
        SystemExit: after one line, for a flag that isn't known or a value that isn't allowed.
    """
    parser = argparse.ArgumentParser(
        prog="conformance.broken", epilog="A flag beats the environment, and that the default."
    )
    parser.add_argument("--fault", default="", help="the one thing to do wrong")
    parser.add_argument("--right", default="", help="the one thing to do in another way")
    for option in options:
        parser.add_argument(option.flag, dest=option.name, help=option.help)
    asked = vars(parser.parse_args(words))
    found: dict[str, Any] = {}
    for option in options:
        text = option.text(asked[option.name])
        try:
            found[option.name] = option.read(text)
        except BadValue as error:
            parser.error(f"{option.flag} / {option.variable} {text!r}: {error}")
    return found
