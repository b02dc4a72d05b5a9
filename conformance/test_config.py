"""CFG: each option, by its flag and by its environment variable."""

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from conformance.catalogue import Requirement
from conformance.client import Server
from conformance.effects import SIZE, Trial, by_flag, by_variable
from conformance.launch import FLAGS, OTHER_HOSTS, Launched, Launcher, Turned, free_port
from conformance.trials import ample_s, begun, is_up, started
from conformance.verdicts import check, not_tested, requirement

GUIDES_FLAGS = tuple(FLAGS[name] for name in FLAGS if name not in {"SERVER_HOST", "QUEUE_SIZE"})
ENDS_WITHIN_S = 5.0
BAD = {
    "MODEL_TYPE": "no-such-type",
    "CONTEXT_LENGTH": "rather-long",
    "MLX_WARMUP": "perhaps",
    "SERVER_PORT": "harbour",
    "MAX_CONCURRENCY": "some",
    "QUEUE_TIMEOUT": "soon",
    "QUEUE_SIZE": "plenty",
    "LOG_LEVEL": "loudly",
}


BY_FLAG = {
    "CFG-3": "CONTEXT_LENGTH",
    "CFG-4": "MLX_WARMUP",
    "CFG-5": "MAX_CONCURRENCY",
    "CFG-6": "QUEUE_TIMEOUT",
    "CFG-7": "SERVER_PORT",
    "CFG-8": "LOG_LEVEL",
}
BY_VARIABLE = {
    "CFG-11": "CONTEXT_LENGTH",
    "CFG-12": "MLX_WARMUP",
    "CFG-14": "SERVER_PORT",
    "CFG-15": "MAX_CONCURRENCY",
    "CFG-16": "QUEUE_TIMEOUT",
    "CFG-18": "LOG_LEVEL",
}


@pytest.fixture(scope="session")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a path where nothing is."""
    return tmp_path_factory.mktemp("tier3a") / "no-such-model"


def check_never_up(
    demand: Requirement, launcher: Launcher, usual: Launched, turned: Turned
) -> None:
    """Demand that an instance ends or is held back, for longer than the usual one took."""
    if not is_up(usual):
        not_tested("without it the server doesn't say in /health that it is ready, either")
    with begun(demand, launcher, turned) as launched:
        launched.start.watch(ample_s(launcher), launched.has_settled)
        moments = launched.start.moments
        health = moments[-1].health if moments else None
        check(demand, not is_up(launched), f"ready with {turned}", health)


@requirement(*BY_FLAG, profile="managed")
def test_flag_has_its_effect(demand: Requirement, launcher: Launcher, launched: Launched) -> None:
    """The server is another with the flag than without."""
    Trial(demand, by_flag, launcher, launched).check(BY_FLAG[demand.id])


@requirement(*BY_VARIABLE, profile="managed")
def test_variable_has_its_effect(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """The server is another with the variable than without."""
    Trial(demand, by_variable, launcher, launched).check(BY_VARIABLE[demand.id])


@requirement("CFG-17", profile="managed")
def test_queue_size_has_its_effect(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """As many may wait as it says, which the other options would hide."""
    Trial(demand, by_variable, launcher, launched).check_alone("QUEUE_SIZE", SIZE)


@requirement("CFG-1", "CFG-9", profile="managed")
def test_model_path_is_where_the_model_is(
    demand: Requirement, launcher: Launcher, launched: Launched, nowhere: Path
) -> None:
    """A path that leads nowhere gives no ready server."""
    way = by_flag if demand.id == "CFG-1" else by_variable

    check_never_up(demand, launcher, launched, way({"MODEL_PATH": str(nowhere)}))


@requirement("CFG-2", "CFG-10", profile="managed")
def test_model_type_is_the_models_type(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """A type that doesn't exist gives no ready server."""
    way = by_flag if demand.id == "CFG-2" else by_variable

    check_never_up(demand, launcher, launched, way({"MODEL_TYPE": BAD["MODEL_TYPE"]}))


def other_host() -> tuple[str, int]:
    """Return another loopback address of this machine, and a port free there and on the usual."""
    for host in OTHER_HOSTS:
        port = free_port()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.bind((host, port))
        except OSError:
            continue
        return host, port
    return not_tested(f"this machine has no other loopback address of {', '.join(OTHER_HOSTS)}")


def answers_at(server: Server) -> bool:
    """Whether anybody takes connections there."""
    try:
        socket.create_connection((server.address.host, server.address.port), 1.0).close()
    except OSError:
        return False
    return True


@requirement("CFG-13", profile="managed")
def test_host_is_the_address_listened_on(
    demand: Requirement, launcher: Launcher, launched: Launched
) -> None:
    """The server listens where it is told, and nowhere else."""
    host, port = other_host()
    turned = Turned(environment={"SERVER_HOST": host})
    usual = launched.server.address
    elsewhere = Server(
        f"http://{usual.host}:{port}", timeout_s=1.0, journal=launched.server.journal
    )
    with begun(demand, launcher, turned, host, port) as instance:
        instance.start.watch(
            launcher.patience_s, lambda: instance.has_settled() or answers_at(elsewhere)
        )

        last = instance.log.last_line()
        check(demand, answers_at(instance.server), f"not there with {turned}: {last}")
        check(demand, not answers_at(elsewhere), f"at {usual.host} as well, with {turned}")


@requirement("CFG-19", profile="managed")
def test_flag_beats_variable(demand: Requirement, launcher: Launcher) -> None:
    """Where flag and variable say different things, the flag is right."""
    length = launcher.context_length // 2
    turned = Turned(
        flags={"--context-length": str(length), "--mlx-warmup": "false"},
        environment={"CONTEXT_LENGTH": str(length + 1), "MLX_WARMUP": "true"},
    )
    server = started(demand, launcher, turned).server
    shown = [model.get("context_length") for model in server.models()]
    is_enabled = server.get("/health").fields().get("warmup_enabled")

    check(demand, length in shown, f"context_length {shown} with {turned}")
    check(demand, not is_enabled, f"warmup_enabled {is_enabled} with {turned}")


@requirement("CFG-19", profile="managed")
def test_help_names_flags_and_variables(demand: Requirement, launcher: Launcher) -> None:
    """All that can be turned, and how, is told by --help."""
    with begun(demand, launcher, Turned(flags={"--help": ""})) as instance:
        status = instance.wait_until_ended(launcher.patience_s)
        text = instance.log.text().decode("utf-8", "replace")
    for variable, flag in FLAGS.items():
        # There it only stands for the flag's value, as some parsers have it by themselves.
        text = text.replace(f"{flag} {variable}", flag)
    missing = [name for name in (*GUIDES_FLAGS, *FLAGS) if not is_named(name, text)]

    check(demand, status == 0, f"--help ended with {status}")
    check(demand, not missing, f"--help doesn't name {', '.join(missing)}")


def is_named(name: str, text: str) -> bool:
    """Whether *name* stands in *text* as a word of its own."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def ways_of(variable: str) -> list[Turned]:
    """Return the ways to give an option a bad value."""
    bad = {variable: BAD[variable]}
    ways = [by_variable, by_flag] if FLAGS[variable] in GUIDES_FLAGS else [by_variable]
    return [way(bad) for way in ways]


def refusal_problem(launched: Launched, variable: str, within_s: float) -> str:
    """Say what is wrong with how an instance ends that was given a bad value."""
    launched.start.watch(within_s, launched.has_settled)
    status = launched.process.poll()
    text = launched.log.text().decode("utf-8", "replace")
    if status is None:
        return f"it still runs after {within_s:g} s"
    if status == 0:
        return "it ended with status 0"
    if not (is_named(variable, text) or is_named(FLAGS[variable], text)):
        return f"what it says names no option: {launched.log.last_line()}"
    return "" if BAD[variable] in text else f"the value isn't told: {launched.log.last_line()}"


@pytest.mark.parametrize("variable", BAD)
@requirement("CFG-20", profile="managed")
def test_bad_value_ends_the_start(demand: Requirement, launcher: Launcher, variable: str) -> None:
    """A server that can't do as it is told says so at once, with the option and the value."""
    ways = ways_of(variable)
    with ExitStack() as stack:
        instances = [stack.enter_context(begun(demand, launcher, turned)) for turned in ways]
        for turned, instance in zip(ways, instances, strict=True):
            within_s = ENDS_WITHIN_S + launcher.start_s
            problem = refusal_problem(instance, variable, within_s)
            check(demand, not problem, f"with {turned}: {problem}")
