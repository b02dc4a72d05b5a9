"""The gate's command: shows the changes, and holds them to what they demand."""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from conformance.gate import releases
from conformance.gate.comparison import PARTIES, Change, compare
from conformance.gate.keywords import Effect
from conformance.gate.releases import Contracts, Unreadable, Version

ROOT = Path(__file__).parent.parent.parent
SECTION = "Contracts"
CALM = {Effect.ADDED: "addition", Effect.WORDING: "wording"}


class Demand(NamedTuple):
    """Something that the changes ask for, in words, and whether it is there."""

    what: str
    is_met: bool

    def __str__(self) -> str:
        return f"{'met' if self.is_met else 'NOT MET':<8} {self.what}"


def least_version(last: Version, changes: Sequence[Change]) -> Version:
    """
    Return the lowest version that may follow *last* with these changes.

    A break asks for the next major version, an addition for a minor one, other words for a patch.
    Before 1.0.0 it is one step less for each, and nothing for other words.
    """
    steps = [
        0 if change.breaks else 1 if change.effect is Effect.ADDED else 2 for change in changes
    ]
    match min(steps, default=3) + (last.major == 0):
        case 0:
            return Version(last.major + 1, 0, 0)
        case 1:
            return Version(last.major, last.minor + 1, 0)
        case 2:
            return Version(last.major, last.minor, last.patch + 1)
    return last


def notes(changelog: str, version: Version) -> str:
    """Return what the changelog says of contracts, under Unreleased and under *version*."""
    found, heading, section = [], "", ""
    for line in changelog.splitlines():
        if line.startswith("## "):
            heading, section = line.strip("# []").partition(" ")[0].strip("[]"), ""
        elif line.startswith("### "):
            section = line.strip("# ")
        elif section == SECTION and heading in {"Unreleased", str(version)}:
            found.append(line)
    return "\n".join(found)


def demands(last: Contracts, here: Contracts, changes: list[Change], log: str) -> list[Demand]:
    """Return what *changes* since *last* ask of the version and of the changelog."""
    least = least_version(last.version, changes)
    found = [
        Demand(
            f"openapi.yaml has version {least} or a later one: {here.version}",
            here.version >= least,
        )
    ]
    told = set(re.findall(r"`([^`]+)`", notes(log, here.version)))
    subjects = {change.subject for change in changes if change.effect is not Effect.WORDING}
    for subject in sorted(subjects):
        what = (
            f"the changelog names `{subject}` under ### {SECTION} of Unreleased or {here.version}"
        )
        found.append(Demand(what, subject in told))
    return found


def lines(changes: list[Change]) -> list[str]:
    """Return a line for each change and party that it breaks, the parties apart."""
    groups = [
        [f"BREAKS {party}  {change}" for change in changes if party in change.breaks]
        for party in PARTIES
    ]
    for effect, word in CALM.items():
        calm = [change for change in changes if change.effect is effect]
        groups.append([f"{word:<16}  {change}" for change in calm])
    return [line for group in groups if group for line in (*group, "")]


def summary(last: Version, changes: list[Change]) -> str:
    """Return what happened since *last*, in numbers."""
    if not changes:
        return f"Nothing has changed since {last}."
    breaks = Counter(party for change in changes for party in change.breaks)
    effects = Counter(change.effect for change in changes)
    counts = [f"breaks for {party} {breaks[party]}" for party in PARTIES]
    counts += [f"additions {effects[Effect.ADDED]}", f"other words {effects[Effect.WORDING]}"]
    return f"Since {last}: {', '.join(counts)}."


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line; ends with 2 where there is something wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.gate",
        description="Compare the contracts with their last release, and name what breaks whom.",
        epilog="Exit code: 0 if every demand is met, 1 if one is not, 2 if nothing can be compared.",
    )
    folder = ROOT / "contracts"
    parser.add_argument("--contracts", type=Path, metavar="DIR", default=folder)
    parser.add_argument("--released", type=Path, metavar="DIR", default=folder / "released")
    parser.add_argument("--changelog", type=Path, metavar="FILE", default=ROOT / "CHANGELOG.md")
    parser.add_argument(
        "--release", action="store_true", help="write the release, where every demand is met"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """
    Compare, print, and release where that is asked for; return the exit code.

    Raises:
        Unreadable: there is nothing to compare, or nothing to compare it with.
    """
    here = releases.read_folder(options.contracts)
    last = releases.read_last(options.released)
    is_met = True
    if last is not None:
        changes = compare(last, here)
        print(*lines(changes), summary(last.version, changes), sep="\n")
        found = demands(last, here, changes, options.changelog.read_text(encoding="utf-8"))
        print(*found, sep="\n")
        is_met = all(demand.is_met for demand in found)
    elif not options.release:
        raise Unreadable(f"{options.released}: no release; --release writes the first")
    if is_met and options.release:
        print(f"wrote {releases.write(here, options.released)}")
    return 0 if is_met else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options(arguments)
    try:
        return run(options)
    except FileExistsError as error:
        print(f"NOT MET  a release never changes: {error.filename} is there")
        return 1
    except (OSError, Unreadable) as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
