"""The limit of open files is raised where it can be; the system's part is played, flows try the real one."""

from __future__ import annotations

import logging
import resource

import pytest

from service.web import descriptors
from service.web.descriptors import WANTED

INFINITE = resource.RLIM_INFINITY


class Limits:
    """The system's side: what is set, and what it says to that."""

    def __init__(self, soft: int, hard: int, refusal: Exception | None = None) -> None:
        self.now = (soft, hard)
        self._refusal = refusal

    def getrlimit(self, which: int) -> tuple[int, int]:
        """Return soft and hard limit, as `resource` does."""
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        """Set both, or refuse, as `resource` does."""
        assert which == resource.RLIMIT_NOFILE
        if self._refusal is not None:
            raise self._refusal
        self.now = limits


@pytest.fixture(autouse=True)
def passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged reaches pytest, although an app of another test may have taken the lines."""
    monkeypatch.setattr(logging.getLogger("service"), "propagate", True)


def raised(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return what the limits are when all was done."""
    monkeypatch.setattr(resource, "getrlimit", limits.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", limits.setrlimit)
    descriptors.raise_limit()
    return limits.now


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, INFINITE, WANTED),  # a Mac
        (1024, 1048576, WANTED),  # most Linuxes
        (1024, 4096, 4096),
        (WANTED, WANTED, WANTED),
        (20000, 20000, 20000),
        (INFINITE, INFINITE, INFINITE),
    ],
)
def test_soft_limit_is_raised_and_never_lowered(
    soft: int, hard: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as wanted, or as far as the hard limit goes, which stays as it is."""
    assert raised(Limits(soft, hard), monkeypatch) == (expected, hard)


def test_low_hard_limit_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator reads how many there can be."""
    raised(Limits(256, 512), monkeypatch)

    assert "At most 512 files" in caplog.text


@pytest.mark.parametrize("refusal", [OSError(22, "Invalid argument"), ValueError("not allowed")])
def test_system_that_refuses_is_logged(
    refusal: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server serves all the same."""
    assert raised(Limits(256, INFINITE, refusal), monkeypatch) == (256, INFINITE)
    assert "stays at 256" in caplog.text
