"""LOCAL: nothing leaves the machine."""

import sys
from contextlib import suppress
from pathlib import Path

from conformance import secluded
from conformance.answers import KINDS, Answers
from conformance.catalogue import Requirement
from conformance.client import NoAnswer
from conformance.launch import Launched, Launcher, LaunchFailed, Turned
from conformance.network import Proxy, Sockets, naming_proxy
from conformance.trials import begun
from conformance.verdicts import Violation, check, not_tested, requirement

NO_PROXY = "http://192.0.2.2:3128"  # nobody has that address, by RFC 5737


def may_load(launcher: Launcher) -> bool:
    """Whether loading may use the network: the model is named by a hub id."""
    path = launcher.value_of("MODEL_PATH")
    return bool(path) and not Path(path).expanduser().exists()


def use(demand: Requirement, launcher: Launcher, launched: Launched) -> float:
    """Watch a start to its end, ask for one answer of each kind; return when it had loaded."""
    try:
        launched.start.watch(launcher.patience_s, launched.has_settled)
        launched.demand_answers(launcher.patience_s)
    except LaunchFailed as error:
        raise Violation(demand, f"didn't start under watch: {error}", None) from error
    answers = Answers(launched.server)
    for kind in KINDS:
        with suppress(NoAnswer):  # others check whether it is answered
            answers.of(kind)
    healths = [moment.health for moment in launched.start.moments]
    return next((health.at_s for health in healths if health.status == 200), healths[-1].at_s)


def seen_inside(demand: Requirement, launcher: Launcher, seen: Path) -> list[str] | None:
    """Return whom a server turned to in a network of its own; None where it can't have one."""
    seen.touch()
    before = [
        sys.executable,
        "-m",
        secluded.__name__,
        "--port",
        "{port}",
        "--seen",
        str(seen),
        "--",
    ]
    turned = Turned(environment=naming_proxy(NO_PROXY))
    with begun(demand, launcher, turned, before=before) as one:
        moments = one.start.moments
        one.start.watch(launcher.patience_s, lambda: one.has_ended() or bool(moments))
        if one.process.poll() == secluded.NOT_ALLOWED:
            return None
        use(demand, launcher, one)
    return seen.read_text().splitlines()


@requirement("LOCAL-1", profile="managed")
def test_nothing_leaves_the_machine(
    demand: Requirement, launcher: Launcher, launched: Launched, tmp_path: Path
) -> None:
    """From its first moment on the server asks for no other machine, by a proxy or without one."""
    is_hub_id = may_load(launcher)
    found = None if is_hub_id else seen_inside(demand, launcher, tmp_path / "seen")
    if found is not None:
        check(demand, not found, f"it turned to {', '.join(found)}")
        return
    if is_hub_id and not Sockets.can_be_seen():
        not_tested("a proxy would keep it from loading, and sockets can't be seen on this system")
    with Proxy() as proxy:
        turned = Turned(environment={} if is_hub_id else proxy.environment)
        with (
            begun(demand, launcher, turned) as one,
            Sockets(one.process.pid, one.server.address.port) as sockets,
        ):
            loaded_s = use(demand, launcher, one)
    since_s = loaded_s if is_hub_id else 0.0
    reached = [str(each) for each, at_s in sockets.seen.items() if at_s > since_s]
    told = list(dict.fromkeys([*proxy.asked, *reached]))

    check(demand, not told, f"it turned to {', '.join(told)}")
