"""Texts at which an answer shall end, alone and in a list: pieces of what it says without them."""

from collections.abc import Callable

from conformance.questions.chat import STREAMED, Fields

N_STOP = 4
N_LONG_STOP = 12  # more than one token, whatever the model's are
NEVER_SAID = "\u2042 never said \u2042"
LOST = "\ufffd"

STOPS: dict[str, Callable[[str], Fields]] = {
    "text": lambda stop: {"stop": stop},
    "list": lambda stop: {"stop": [NEVER_SAID, stop]},
    "streamed": lambda stop: {"stop": stop, **STREAMED},
    "across-tokens": lambda stop: {"stop": stop, **STREAMED},
}
LENGTHS = {"across-tokens": N_LONG_STOP}
SEQUENCES: dict[str, Callable[[str], Fields]] = {
    "whole": lambda stop: {"stop_sequences": [NEVER_SAID, stop]},
    "streamed": lambda stop: {"stop_sequences": [NEVER_SAID, stop], "stream": True},
}


def place_to_stop(said: str, length: int = N_STOP) -> int:
    """Return where the first half of a text last says something new; -1 where it says nothing."""
    pieces = (said[at : at + length] for at in range(len(said) // 2))
    return max(
        (said.find(each) for each in pieces if each.strip() and LOST not in each), default=-1
    )
