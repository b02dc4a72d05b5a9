"""An exchange as a page shows it: request, response, timing, and how to send it again."""

import json
import re
from http import HTTPStatus

from conformance.reports.drawing import Segment, bar
from conformance.reports.looks import duration
from conformance.reports.markup import Html, element, fragment
from conformance.reports.shape import Exchange, Request, Response

INDENT = "  "
MAX_DEPTH = 20
OPENING, CLOSING = ("{", "["), ("}", "]")
TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def title(exchange: Exchange) -> Html:
    """Return an exchange in one line."""
    request, response = exchange["request"], exchange["response"]
    came = _status(response) if response else "no response"
    sent = f"{request['method']} {request['target']}"
    return fragment(
        element("code", sent, class_="sent"),
        element("span", came, class_="came"),
        element("span", f"in {duration(exchange['total_s'])}", class_="when"),
    )


def render(exchange: Exchange) -> Html:
    """Return the whole of an exchange."""
    request, response = exchange["request"], exchange["response"]
    came = _response(response) if response else element("p", "No response came.", class_="quiet")
    return element(
        "div",
        _timing(exchange),
        element("div", _request(request), came, class_="sides"),
        element("h5", "Send it again"),
        element("pre", element("code", exchange["curl"]), class_="curl", tabindex="0"),
        class_="exchange",
    )


def pretty(body: str) -> Html:
    """
    Return *body* with line breaks and colours where it is JSON, and as it is where it isn't.

    Only white space between tokens changes: numbers, escapes and doubled keys stay what they were.
    """
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return fragment(body)
    tokens = TOKEN.findall(body)
    parts: list[str] = []
    depth = 0
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        depth += token in OPENING
        parts.append(_token(token, following))
        if following in CLOSING:
            depth -= 1
        if token == ":":
            parts.append(" ")
        elif (token in OPENING) != (following in CLOSING) or token == ",":
            parts.append("\n" + INDENT * min(depth, MAX_DEPTH))
    return fragment(*parts)


def _token(token: str, following: str) -> str:
    if token in "{}[],:":
        return token
    kind = "key" if following == ":" else "text" if token.startswith('"') else "literal"
    return element("span", token, class_=kind)


def _status(response: Response) -> str:
    code = response["status"]
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _timing(exchange: Exchange) -> Html:
    head_s, total_s = exchange["head_s"], exchange["total_s"]
    words = f"sent {duration(exchange['at_s'])} into the run, "
    if exchange["response"] is None:
        return element("p", words, f"given up after {duration(total_s)}", class_="timing")
    words += f"head after {duration(head_s)}, end after {duration(total_s)}"
    rest_s = max(total_s - head_s, 0.0)
    segments = [
        Segment("to-head", head_s, f"to the end of the head: {duration(head_s)}"),
        Segment("to-end", rest_s, f"to the end of the body: {duration(rest_s)} more"),
    ]
    return element("p", bar(segments, words), element("span", words), class_="timing")


def _request(request: Request) -> Html:
    line = f"{request['method']} {request['target']}"
    return _message("Request", line, request)


def _response(response: Response) -> Html:
    return _message("Response", _status(response), response)


def _message(heading: str, line: str, message: Request | Response) -> Html:
    headers = [
        fragment("\n", element("span", name, class_="key"), ": ", value)
        for name, value in message["headers"]
    ]
    body = message["body"]
    n_sent, n_shown = message["body_bytes"], len(body.encode("utf-8", "replace"))
    told = f"{n_sent:,} bytes" if n_sent else "no body"
    if n_shown < n_sent:
        told += f", cut after {len(body):,} characters"
    return element(
        "div",
        element("h5", heading, element("small", told)),
        element("pre", element("strong", line), *headers, tabindex="0"),
        element("pre", pretty(body), class_="body", tabindex="0") if body else "",
    )
