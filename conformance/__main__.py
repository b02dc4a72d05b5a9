"""`tier3a-conformance`, and `python -m conformance`: pytest over this folder, wherever it is installed."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Run the suite with the arguments of this process, and end with its status."""
    # The folder that it is called in may have a configuration of pytest's; it is nobody's business here.
    settings = ("-c", os.devnull, "--rootdir", str(FOLDER.parent), "-p", "no:cacheprovider")
    sys.exit(pytest.main([*settings, str(FOLDER), *sys.argv[1:]]))


if __name__ == "__main__":
    main()
