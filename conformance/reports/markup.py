r"""
Markup that is built, not pasted together: whatever isn't `Html` is escaped on its way in.

Everything in a report may come from a server that means harm, its own name included. Control
characters and those that turn the direction of text are shown as `\x1b` or `\u202e`.
"""

import html
import re

VOID = frozenset({"input", "link", "meta"})

# What can't be seen, can't be written as XML or UTF-8, or changes how its neighbours are shown.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufffe\uffff]"
)


class Html(str):
    """Text that is markup already. An f-string of it is a plain `str` again, and gets escaped."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Return *text* as markup that shows exactly it, in HTML and in XML, in attributes as well."""
    if isinstance(text, Html):
        return text
    seen = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return Html(html.escape(seen))


def fragment(*children: str) -> Html:
    """Return *children* side by side."""
    return Html("".join(map(escape, children)))


def element(tag: str, /, *children: str, **attributes: str | bool) -> Html:
    """
    Return one element.

    Attributes that are Python's words end in `_`; any other `_` becomes `-`. One that is True
    stands without a value, one that is False or empty is left out.
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value
    )
    end = "" if tag in VOID else f"{fragment(*children)}</{tag}>"
    return Html(f"<{tag}{shown}>{end}")
