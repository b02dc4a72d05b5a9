"""
Several servers' reports side by side: `python -m conformance.compare A.json B.json --html FILE`.

The reports are those of `pytest conformance --report-json FILE`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from conformance import contracts
from conformance.reports import comparison
from conformance.reports.shape import Report


def named(text: str) -> Report:
    """
    Return the report that a word of the command line means: `FILE`, or `NAME=FILE`.

    Raises:
        ValueError: it can't be read, or it isn't a report of this format.
    """
    name, equals, path = text.partition("=")
    if not equals:
        return read(Path(text))
    report = read(Path(path))
    report["server"]["name"] = name
    return report


def read(path: Path) -> Report:
    """
    Return the report in the file at *path*.

    Raises:
        ValueError: it can't be read, or it isn't a report of this format.
    """
    try:
        found: object = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON") from error
    if problem := contracts.breach("conformance-report", found):
        raise ValueError(f"{path}: not a report: {problem}")
    return cast(Report, found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the comparison that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m conformance.compare", description=__doc__)
    parser.add_argument(
        "reports", nargs="+", metavar="[NAME=]REPORT", help="a JSON report, and what to call it"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all of it")
    parser.add_argument(
        "--markdown", action="store_true", help="print a table of areas that a README can carry"
    )
    asked = parser.parse_args(arguments)
    if not (asked.html or asked.markdown):
        parser.error("say what to make: --html FILE, --markdown, or both")
    try:
        reports = [named(text) for text in asked.reports]
        if asked.html:
            asked.html.write_text(comparison.render(reports), encoding="utf-8")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{asked.html}: {error.strerror}")
    if asked.markdown:
        sys.stdout.write(comparison.markdown(reports))


if __name__ == "__main__":
    main()
