"""Which route a path means."""

import pytest

from service import contracts
from service.web.paths import canonical

ROUTES = list(contracts.openapi()["paths"])


@pytest.mark.parametrize("path", ROUTES)
def test_route_in_all_spellings(path: str) -> None:
    """Slashes too many, a version left out or said twice: it is the same route."""
    bare = path.removeprefix("/v1")
    spellings = [path, f"{path}/", f"/{path}", path.replace("/", "//"), f"{path}//"]
    if bare != path:
        spellings += [bare, f"{bare}/", f"/v1{path}", f"/v1//v1{bare}"]

    assert {path} == {canonical(each) for each in spellings}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/v2/chat/completions", "/v2/chat/completions"),
        ("/chats", "/chats"),
        ("/v1/nothing", "/v1/nothing"),
        ("/nothing/chat/completions", "/nothing/chat/completions"),
        ("/v1/models/chat/completions", "/v1/models/chat/completions"),
        ("/models/org/name", "/v1/models/org/name"),
        ("/v1/health", "/v1/health"),
    ],
)
def test_path_of_no_other_route(path: str, expected: str) -> None:
    """What means no route is tidied and goes nowhere else; an id may look like a route."""
    assert expected == canonical(path)
