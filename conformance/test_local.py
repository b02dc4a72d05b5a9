"""LOCAL: nothing leaves the machine."""

from contextlib import suppress
from pathlib import Path

from conformance.answers import KINDS, Answers
from conformance.catalogue import Requirement
from conformance.client import NoAnswer
from conformance.launch import Launched, Launcher, LaunchFailed, Turned
from conformance.network import Proxy, Sockets
from conformance.trials import begun
from conformance.verdicts import Violation, check, not_tested, requirement


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


@requirement("LOCAL-1", profile="managed")
def test_nothing_leaves_the_machine(demand: Requirement, launcher: Launcher) -> None:
    """From its first moment on the server asks for no other machine, by a proxy or without one."""
    is_hub_id = may_load(launcher)
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
