"""
For which files the whole proof was last seen to hold.

`proved.txt` has the digest of `conformance/` and `contracts/` as they were then. As long as they
still have it, the proof has nothing new to show, and a sample of it is enough to see that it runs.
A digest and not a commit, since it is the same in a clone without history and before a commit.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RECORD = Path(__file__).with_name("proved.txt")
FOLDERS = ("conformance", "contracts")
REPORTS = ROOT / "conformance" / "servers"  # what was once seen of others; no check reads it
KINDS = {".css", ".json", ".py", ".toml", ".txt", ".yaml"}


def digest(root: Path = ROOT) -> str:
    """Return the SHA-256 of all that the proof depends on: names and contents, in hexadecimal."""
    found = hashlib.sha256()
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in KINDS and path != RECORD and REPORTS not in path.parents:
                found.update(f"{path.relative_to(root).as_posix()}\n".encode())
                found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def recorded() -> str:
    """Return the digest that was recorded last; empty where none was."""
    return RECORD.read_text("ascii").strip() if RECORD.exists() else ""
