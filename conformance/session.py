"""What one run of the suite talks to."""

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import catalogue
from conformance.answers import Answers
from conformance.client import Journal, Server
from conformance.launch import Launched, Launcher
from conformance.serverlog import ServerLog
from conformance.start import COARSE_STEP_S, READY_WITHIN_S, STEP_S, Start, is_starting

TIMEOUT_S = 10.0
NEEDS_READY = {"wire", "openai", "openai-api", "stress"}
HELD_BACK = {"notready"}
NEEDS_LAUNCH = {"startup", "managed"}


class Session:
    """
    The server under test, and what the options say about it.

    Attributes:
        profiles: those asked for, and `log` where --server-log was given.
        server: a client for it.
        answers: its answers by kind.
        launcher: starts variants of it; None without --launch.
        launched: the instance that the suite started as it is; the server under test itself
            where no URL was given.
        start: what was seen of a start, where there was one to see.
        log: the log that --server-log names.
        assumed: what --assume says that the model to ask can do, whatever its tags say.
        journal: the exchanges of this run, with all instances.
        is_ready: whether it became ready in the time of one exchange.
    """

    def __init__(self, option: Callable[[str], object]) -> None:
        self.profiles = _profiles(option("profile"))
        self.timeout_s = _seconds("--timeout", option("timeout") or TIMEOUT_S)
        self.journal = Journal()
        self.started_s = time.monotonic()
        self.budget_s = _seconds("--budget", option("budget")) if option("budget") else 0.0
        self._tls = _tls(option("cacert"), is_insecure=bool(option("insecure")))
        self._api_key = str(option("api_key") or "")
        self._model = str(option("model") or "")
        self.assumed = _assumed(option("assume"))
        self.command = str(option("launch") or "")
        self.url = str(option("base_url") or os.environ.get("TIER3A_BASE_URL") or "")
        if not self.url and not self.command:
            raise pytest.UsageError("say which server to test: --base-url URL, or --launch CMD")
        if "managed" in self.profiles and not self.command:
            raise pytest.UsageError("--profile managed needs --launch CMD")
        self.launcher = Launcher(self.command, self.make_server) if self.command else None
        self.log = _given_log(option("server_log"))
        if self.log and "log" not in self.profiles:
            self.profiles.append("log")
        if "log" in self.profiles and not self.log:
            raise pytest.UsageError("--profile log needs --server-log FILE")
        self.launched: Launched | None = None
        self.start: Start | None = None
        self.is_ready = False
        if self.url:
            self._use(self.make_server(self.url))

    def make_server(self, url: str) -> Server:
        """Return a client for the server at *url*, with the options' key, model and patience."""
        try:
            return Server(
                url,
                timeout_s=self.timeout_s,
                journal=self.journal,
                api_key=self._api_key,
                model=self._model,
                tls=self._tls,
            )
        except ValueError as error:
            raise pytest.UsageError(f"--base-url: {error}") from error

    def _use(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.answers = Answers(server, self.assumed)

    def open(self) -> None:
        """
        Find the server, and give one that is just starting the time to become ready.

        Raises:
            LaunchFailed: the command of --launch ended, or never answered.
            NoAnswer: nothing answers at the URL.
        """
        if self.launcher and (not self.url or not NEEDS_LAUNCH.isdisjoint(self.profiles)):
            self.launched = self.launcher.begin()
            self.start = self.launched.start
            if not self.url:
                self._use(self.launched.server)
            if HELD_BACK.issuperset(self.profiles):
                self.launched.wait_until_answering()
            else:
                is_tested = "startup" in self.profiles
                self.launched.wait_until_ready(STEP_S if is_tested else COARSE_STEP_S)
        elif "startup" in self.profiles:
            self.start = Start(self.server)
            self.start.watch(max(READY_WITHIN_S, 6 * self.timeout_s), step_s=STEP_S)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        needs_ready = not NEEDS_READY.isdisjoint(self.profiles)
        while is_starting(self.server.get("/health")):
            if not needs_ready or time.monotonic() > deadline:
                return
            time.sleep(STEP_S)
        self.is_ready = True

    @property
    def is_over_budget(self) -> bool:
        """Whether the time for the whole run is over."""
        return bool(self.budget_s) and time.monotonic() > self.started_s + self.budget_s

    @property
    def name(self) -> str:
        """What people call the server: host and port."""
        return self.server.address.host_header if self.url else "the launched server"

    @property
    def secrets(self) -> list[str]:
        """What must stand in no report."""
        return [self._api_key]

    def known_model(self) -> str:
        """Return the model that was asked, without asking for it now."""
        return self.server.known_model if self.url else self._model

    def needs_ready(self, profile: str) -> bool:
        """Whether that profile's checks say nothing about a server that isn't ready."""
        return profile in NEEDS_READY

    def has_died(self) -> bool:
        """Whether the instance that the suite started for this run has ended by itself."""
        return self.launched is not None and self.launched.has_ended()

    def close(self) -> None:
        """Stop what was started."""
        if self.launcher:
            self.launcher.stop()
        if self.launched:
            self.launched.stop()
            self.launched = None


def _profiles(asked: object) -> list[str]:
    names = _list(asked)
    for name in names:
        if name not in catalogue.PROFILES:
            known = ", ".join(catalogue.PROFILES)
            raise pytest.UsageError(f"--profile {name}: unknown; there are {known}")
    return list(dict.fromkeys(names)) or ["wire"]


def _assumed(given: object) -> list[str]:
    """Return the capabilities in *given*, each once."""
    words = [each.strip() for group in _list(given) for each in group.split(",")]
    known = catalogue.capabilities()
    for word in words:
        if word not in known:
            raise pytest.UsageError(
                f"--assume {word}: unknown; there are {', '.join(sorted(known))}"
            )
    return list(dict.fromkeys(words))


def _list(given: object) -> list[str]:
    """Return what a repeatable option was given."""
    return [str(each) for each in given] if isinstance(given, list) else []


def _seconds(name: str, given: object) -> float:
    try:
        seconds = float(str(given))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(f"{name} {given}: must be seconds above 0")
    return seconds


def _tls(cacert: object, *, is_insecure: bool) -> ssl.SSLContext:
    """Return how the certificate of an https server is looked at."""
    try:
        found = ssl.create_default_context(cafile=str(cacert) if cacert else None)
    except OSError as error:
        raise pytest.UsageError(f"--cacert {cacert}: {error.strerror or error}") from error
    if is_insecure:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    return found


def _given_log(name: object) -> ServerLog | None:
    """Return the log of `--server-log`, from where it stands now."""
    if not name:
        return None
    try:
        return ServerLog(Path(str(name)), offset=Path(str(name)).stat().st_size)
    except OSError as error:
        raise pytest.UsageError(f"--server-log {name}: {error.strerror}") from error
