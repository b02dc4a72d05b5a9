"""Instances of the server with options turned, as the checks try them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conformance.catalogue import Requirement
from conformance.launch import Launched, Launcher, LaunchFailed, Turned
from conformance.start import is_ready
from conformance.verdicts import Violation


def started(demand: Requirement, launcher: Launcher, turned: Turned) -> Launched:
    """
    Return an instance with *turned*, ready to be asked; see Launcher.variant.

    Raises:
        Violation: it didn't become ready.
    """
    try:
        return launcher.variant(turned)
    except LaunchFailed as error:
        raise Violation(demand, f"didn't start with {turned}: {error}", None) from error


@contextmanager
def begun(
    demand: Requirement,
    launcher: Launcher,
    turned: Turned,
    host: str = "127.0.0.1",
    port: int = 0,
    before: Sequence[str] = (),
) -> Iterator[Launched]:
    """
    Yield an instance from its first moment on, and stop it afterwards; see Launcher.begin.

    Raises:
        Violation: there is nothing to start.
    """
    try:
        launched = launcher.begin(turned, host=host, port=port, before=before)
    except LaunchFailed as error:
        raise Violation(demand, f"didn't start with {turned}: {error}", None) from error
    try:
        yield launched
    finally:
        launched.stop()


def is_up(launched: Launched) -> bool:
    """Whether the last answer of /health said that the start is over."""
    moments = launched.start.moments
    return bool(moments) and is_ready(moments[-1].health)


def ample_s(launcher: Launcher) -> float:
    """Return a time in which an instance that can become ready has become so."""
    return 1.5 * launcher.start_s + 0.3
