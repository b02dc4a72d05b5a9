"""The log of the server under test, read from where it stood when the suite began."""

import time
from pathlib import Path

PATIENCE_S = 1.0
STEP_S = 0.01


class ServerLog:
    """A growing text file; lines before *offset* (in bytes) are none of the suite's business."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset

    def text(self) -> bytes:
        """Return what has been written since the suite began, as raw bytes."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            return file.read()

    def lines(self) -> list[str]:
        """Return its lines."""
        return self.text().decode("utf-8", "replace").split("\n")

    def last_line(self) -> str:
        """Return the last line that isn't empty."""
        written = [line for line in self.lines() if line.strip()]
        return written[-1].strip() if written else "it wrote nothing"

    def about(self, text: str) -> list[str]:
        """Return the lines that contain *text*."""
        return [line for line in self.lines() if text in line]

    def wait_for(self, *parts: str, within_s: float = PATIENCE_S) -> str:
        """Return the first line that contains all *parts*; empty if none comes in time."""
        deadline = time.monotonic() + within_s
        while True:
            for line in self.lines():
                if all(part in line for part in parts):
                    return line
            if time.monotonic() > deadline:
                return ""
            time.sleep(STEP_S)
