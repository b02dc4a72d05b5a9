"""The workloads of `workloads.toml`, and the clients that each makes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from tests.benchmarks import prompts
from tests.benchmarks.load import Client

FILE = Path(__file__).with_name("workloads.toml")
# Temperatures low enough that the built-in model's answers stay long.
SAMPLINGS: dict[str, Mapping[str, Any]] = {
    "greedy": {},
    "seeds": {"temperature": 0.2},
    "mixed": {"temperature": 0.2, "top_p": 0.9},
}


@dataclass(frozen=True)
class System:
    """
    A system as the file describes it.

    Attributes:
        kind: our server, the bare BatchGenerator, or a name of `rivals.RIVALS`.
        environment: settings of our server; `{folder}` stands for an empty folder, `{embedded}` for that of
            the embedded model.
        beside: whether it gets the disturbing clients of a workload.
        fields: what each measured request to it has besides those of the workload.
    """

    kind: Literal["ours", "bare", "mlx_lm", "vllm-mlx", "mlx-openai-server"]
    environment: dict[str, str] = field(default_factory=dict)
    beside: bool = True
    fields: dict[str, Any] = field(default_factory=dict)

    def asked(self, clients: Sequence[Client]) -> list[Client]:
        """Return *clients* with the fields that requests to this system have besides."""
        return [
            replace(
                client,
                asks=tuple(
                    replace(ask, fields={**ask.fields, **self.fields}) for ask in client.asks
                ),
            )
            for client in clients
        ]


@dataclass(frozen=True)
class Goal:
    """
    What a workload's first system is held to: in the median of the rounds, at least or at most so much.

    Attributes:
        against: the system by whose figure it is divided; none: the figure itself is meant.
    """

    figure: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Beside:
    """Clients that come *at_s* seconds later to disturb those that are measured."""

    prompts: str
    clients: int
    at_s: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Workload:
    """
    One workload.

    Attributes:
        prompts: what the clients say, a key of `prompts.KINDS`.
        clients: how many there are.
        tokens: the longest answer.
        systems: what it is tried on, in turns; goals speak of the first.
        models: what is served, the embedded model, the random one, the deep one, or each in turn.
        prompt_tokens: how long the texts are, for kinds that have one.
        turns: how many requests each client makes, for kinds that have several.
        sampling: a key of `SAMPLINGS`; all but `greedy` give each client a seed of its own.
        arrivals_per_s: clients come at this rate; without it, all at once.
        at_once: how many ask at the same time; without it, all.
        concurrency: how many rows a batch may have, in every system.
        prime: how many clients of the same kind ask before, unmeasured.
        life: systems live for the workload or a round; `restart` starts them anew between prime and measure.
        has_natural_end: the model may end its answers; else they are cut at *tokens*.
        environment: further settings of our server.
        rounds: how often each system is measured: more often where a goal is near to what is found.
        limit_s: what has not ended after so many seconds has failed.
    """

    name: str
    about: str
    prompts: str
    clients: int
    tokens: int
    systems: list[str]
    models: list[Literal["embedded", "random", "deep"]] = field(
        default_factory=lambda: ["embedded"]
    )
    goals: list[Goal] = field(default_factory=list)
    prompt_tokens: int = 0
    turns: int = 1
    sampling: Literal["greedy", "seeds", "mixed"] = "greedy"
    arrivals_per_s: float | None = None
    at_once: int | None = None
    concurrency: int = 8
    prime: int = 0
    life: Literal["workload", "round", "restart"] = "workload"
    has_natural_end: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    rounds: int = 5
    limit_s: float = 60
    beside: Beside | None = None

    def measured(self, n_round: int) -> list[Client]:
        """Return the clients that are measured in a round."""
        rate = self.arrivals_per_s
        return [self._client(i, n_round, i / rate if rate else 0.0) for i in range(self.clients)]

    def priming(self, n_round: int) -> list[Client]:
        """Return the clients that come before them; their numbers follow on."""
        return [self._client(self.clients + i, n_round) for i in range(self.prime)]

    def disturbing(self, n_round: int) -> list[Client]:
        """Return the clients that come beside them, unmeasured, with one ask each."""
        if self.beside is None:
            return []
        beside = self.beside
        orders = [
            prompts.Order(i, beside.prompt_tokens, beside.tokens, 1, n_round, self._fields(i))
            for i in range(beside.clients)
        ]
        asks = [ask for order in orders for ask in prompts.KINDS[beside.prompts](order)]
        return [Client((replace(ask, is_measured=False),), beside.at_s) for ask in asks]

    def _client(self, index: int, n_round: int, at_s: float = 0.0) -> Client:
        order = prompts.Order(
            index, self.prompt_tokens, self.tokens, self.turns, n_round, self._fields(index)
        )
        return prompts.client(self.prompts, order, at_s)

    def _fields(self, index: int) -> dict[str, Any]:
        fields = dict(SAMPLINGS[self.sampling])
        if self.sampling != "greedy":
            fields["seed"] = index
        if self.sampling == "mixed":
            fields |= {"top_k": 20 + index, "min_p": 0.01 * index}
        return fields if self.has_natural_end else fields | {"ignore_eos": True}


@dataclass(frozen=True)
class Plan:
    """All systems by name, and all workloads."""

    systems: dict[str, System]
    workload: list[Workload]


def read(file: Path = FILE) -> Plan:
    """
    Return what the file says.

    Raises:
        msgspec.ValidationError: a value has another type than it should.
    """
    return msgspec.convert(tomllib.loads(file.read_text("utf-8")), Plan)
