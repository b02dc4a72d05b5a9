"""The error tree is what its drawing says."""

import re

import pytest

from service import errors
from service.errors import ClientError, InternalError, QueueFull, ServerError, ServiceError
from service.openai.errors import envelope

LEAF = re.compile(r"[├└]── (\w+) +(\d{3})  (\w+)")
DRAWN = LEAF.findall(errors.__doc__ or "")


def subclasses(of: type[ServiceError]) -> list[type[ServiceError]]:
    """Return everything below *of* in the module, itself left out, in the order of the source."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, of) and kind is not of]


def test_tree_is_drawn_whole() -> None:
    """Each error of the module stands in its docstring, and nothing else does."""
    expected = {kind.__name__ for kind in subclasses(ServiceError)} - {"ClientError", "ServerError"}

    assert expected == {name for name, _, _ in DRAWN}


@pytest.mark.parametrize(("name", "status", "code"), DRAWN)
def test_error_has_the_drawn_status_and_code(name: str, status: str, code: str) -> None:
    """Status and code of each class are the drawn ones; only a bad request has finer codes."""
    kind: type[ServiceError] = getattr(errors, name)

    assert int(status) == kind.status
    assert code == kind.code


@pytest.mark.parametrize("kind", subclasses(ClientError))
def test_client_errors_are_4xx(kind: type[ServiceError]) -> None:
    """What the caller can mend is a 4xx, and says so in OpenAI's coarse class."""
    assert 400 <= kind.status < 500
    assert kind.type in {"invalid_request_error", "authentication_error", "rate_limit_error"}


@pytest.mark.parametrize("kind", subclasses(ServerError))
def test_server_errors_are_5xx(kind: type[ServiceError]) -> None:
    """What is our fault is a 5xx, and never called the caller's."""
    assert 500 <= kind.status < 600
    assert kind.type in {"server_error", "service_unavailable"}


def test_error_when_given_details() -> None:
    """Message, place, code and pause are kept; the class itself is not changed by one instance."""
    error = QueueFull("Full.", param="model", code="finer", retry_after_s=3)

    assert ("Full.", "model", "finer", 3) == (
        error.message, error.param, error.code, error.retry_after_s,
    )  # fmt: skip
    assert "Full." == str(error)
    assert "queue_full" == QueueFull("x").code


def test_envelope_has_all_four_keys() -> None:
    """The wire form carries the four documented keys, null where there is nothing to say."""
    expected = {
        "error": {"message": "x", "type": "server_error", "param": None, "code": "internal_error"}
    }

    assert expected == envelope(InternalError("x"))
