"""The proof's own completeness; the proof itself is a tox environment of its own."""

from conformance import catalogue
from conformance.broken import fault
from conformance.broken.proof import EARLY, Task, mixed


def test_every_requirement_has_a_fault() -> None:
    """No requirement goes unproved, and no fault claims one that isn't there."""
    rows = {row.id for row in catalogue.load().values() if not row.excluded}
    faults = fault.load().values()

    assert {each.breaks for each in faults} == rows
    assert all(each.also <= rows - {each.breaks} for each in faults)


def test_one_fault_is_found_by_its_name_alone() -> None:
    """A fault is started without importing the others."""
    assert fault.find("owner-is-openai").breaks == "DISC-5"


def test_tasks_that_wait_are_beside_those_that_compute() -> None:
    """None is lost, each kind is spread, and the longest begin while there is much else to do."""
    counts = {"": 20, "its surface": 20, "its options": 4}
    tasks = [Task(f"fault-{at}", run) for run, count in counts.items() for at in range(count)]

    done = mixed(tasks)

    assert sorted(map(str, tasks)) == sorted(map(str, done))
    assert {task.run for task in done[: len(done) // 4]} == set(counts)
    late = done[int(EARLY * len(done)) :]
    assert {task.run for task in late} == {"", "its surface"}
