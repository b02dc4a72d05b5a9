"""Wrong ways to think."""

from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.miniature import Asked
from conformance.broken.seeing import Body


@breaks("THINK-1")
class ThoughtsStandInTheContent(Capable):
    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        found = super().whole(asked, body)
        if thought := found["message"].pop("reasoning_content", ""):
            found["message"]["content"] = f"<think>{thought}</think>{found['message']['content']}"
        return found


@breaks("THINK-1")
class ThoughtsComeAfterwards(Capable):
    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        first, *others, last = super().choice_chunks(asked, body)
        n_thoughts = len(self.thoughts(body))
        yield from [first, *others[n_thoughts:], *others[:n_thoughts], last]


@breaks("THINK-2")
class ThoughtsAreNotCounted(Capable):
    def details(self, n_thought: int) -> dict[str, int]:
        return {}
