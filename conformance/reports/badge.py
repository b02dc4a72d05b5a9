"""A report's verdict as a small flat SVG, for a README."""

from conformance.reports.looks import OUTCOMES
from conformance.reports.markup import Html, element
from conformance.reports.shape import Report

SUBJECT = "conformance"
SUBJECT_COLOUR = "#4a4f57"
HEIGHT = 20
PADDING = 7
# Widths of Verdana's letters at 11 px, about; `textLength` makes the text fit exactly.
WIDTHS = dict.fromkeys(" fijlt.,:'|", 3.8) | dict.fromkeys("r()-", 4.9) | dict.fromkeys("mw", 9.8)
WIDTH = 6.7


def render(report: Report) -> str:
    """Return the badge: what was tested by which profiles, and the verdict."""
    message = f"{report['verdict']} ({', '.join(report['run']['profiles'])})"
    left, right = _width(SUBJECT), _width(message)
    label = f"{SUBJECT}: {message}"
    size = {"width": str(left + right), "height": str(HEIGHT)}
    letters = {"font_family": "Verdana,Geneva,DejaVu Sans,sans-serif", "font_size": "11"}
    # No ids, as a clip path would need: several badges can stand in one page.
    subject = f"M3 0H{left}V{HEIGHT}H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z"
    drawn = element(
        "svg",
        element("title", label),
        element("rect", rx="3", fill=OUTCOMES[report["verdict"]].colour, **size),
        element("path", d=subject, fill=SUBJECT_COLOUR),
        element("g", _text(SUBJECT, 0), _text(message, left), fill="#fff", **letters),
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_label=label,
        **size,
    )
    return f"{drawn}\n"


def _width(text: str) -> int:
    return round(sum(WIDTHS.get(letter, WIDTH) for letter in text)) + 2 * PADDING


def _text(text: str, left: int) -> Html:
    length = str(_width(text) - 2 * PADDING)
    return element("text", text, x=str(left + PADDING), y="14", textLength=length)
