"""The proof as a whole: each fault found, nothing else blamed, no check that can't fail."""

import subprocess
import sys

from tests.conformance.suite import ROOT, clean_environment

LIMIT_S = 900


def test_proof_is_complete() -> None:
    """The score is 100 %, or this says what is missing."""
    run = subprocess.run(
        [sys.executable, "-m", "conformance.broken.proof"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "(100.0 %)" in run.stdout
