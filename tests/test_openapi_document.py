"""The OpenAPI document is well formed, and keeps the promises that hold for every route."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.flows.openapi.judge import REGISTRY

CONTRACTS = Path(__file__).parent.parent / "contracts"
DOCUMENT: Any = yaml.safe_load((CONTRACTS / "openapi.yaml").read_text(encoding="utf-8"))

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
STATUSES = {
    "GET /health": {"200", "503"},
    "GET /livez": {"200"},
    "GET /metrics": {"200", "401"},
    "GET /readyz": {"200", "503"},
    "GET /status": {"200", "401"},
    "GET /v1/models": {"200", "401", "503"},
    "GET /v1/models/{id}": {"200", "401", "404", "414", "503"},
    "POST /v1/chat/completions": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/responses": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/responses/input_tokens": {
        "200", "400", "401", "404", "408", "413", "414", "415", "500", "503",
    },
    "GET /v1/responses/{response_id}": {"200", "400", "401", "404", "414"},
    "DELETE /v1/responses/{response_id}": {"200", "401", "404", "414"},
    "GET /v1/responses/{response_id}/input_items": {"200", "400", "401", "404", "414"},
    "POST /v1/responses/{response_id}/cancel": {
        "200", "400", "401", "404", "408", "413", "414", "415",
    },
    "POST /v1/completions": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/embeddings": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/rerank": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/score": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/tokenize": {"200", "400", "401", "404", "408", "413", "414", "415", "500", "503"},
    "POST /v1/detokenize": {"200", "400", "401", "404", "408", "413", "414", "415", "500", "503"},
    "POST /v1/estimate": {"200", "400", "401", "404", "408", "413", "414", "415", "500", "503"},
    "POST /v1/messages": {
        "200", "400", "401", "404", "408", "413", "414", "415", "429", "500", "503",
    },
    "POST /v1/messages/count_tokens": {
        "200", "400", "401", "404", "408", "413", "414", "415", "500", "503",
    },
    "POST /admin/reload": {"200", "400", "401", "403", "408", "413", "414", "415"},
    "GET /admin/models": {"200", "401", "403"},
    "POST /admin/models/{id}/load": {
        "200", "401", "403", "404", "408", "413", "414", "415", "503",
    },
    "POST /admin/models/{id}/unload": {
        "200", "401", "403", "404", "408", "409", "413", "414", "415", "503",
    },
    "POST /admin/models/{id}/pin": {
        "200", "401", "403", "404", "408", "413", "414", "415", "503",
    },
    "POST /admin/models/{id}/unpin": {
        "200", "401", "403", "404", "408", "413", "414", "415", "503",
    },
    "GET /openapi.json": {"200", "304", "401"},
}  # fmt: skip
PROBES = {"GET /health", "GET /livez", "GET /readyz"}
REPORTS = {("GET /health", "503"), ("GET /readyz", "503")}
NEVER_SENT = {"conformance-report.schema.json"}


def resolve(node: Any) -> Any:
    """*node*, or what it refers to within the document."""
    while "$ref" in node and node["$ref"].startswith("#/"):
        target = DOCUMENT
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def list_operations() -> dict[str, Any]:
    """Operations by method and path, such as `GET /health`."""
    return {
        f"{method.upper()} {path}": operation
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


OPERATIONS = list_operations()
RESPONSES = [
    pytest.param(name, status, resolve(response), id=f"{name} {status}")
    for name, operation in OPERATIONS.items()
    for status, response in operation["responses"].items()
]


def walk(node: Any) -> Iterator[Any]:
    """Every mapping in the document, outermost first."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            yield from walk(inner)


def test_version_is_3_1() -> None:
    """The document says which OpenAPI and which JSON Schema it is written in."""
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["jsonSchemaDialect"] == "https://json-schema.org/draft/2020-12/schema"
    assert DOCUMENT["info"].keys() >= {"title", "version"}


def test_operations_are_these() -> None:
    """Every route of the service is there with its statuses, and no other."""
    found = {name: {*operation["responses"]} for name, operation in OPERATIONS.items()}

    assert found == STATUSES


def test_references_resolve() -> None:
    """Each reference leads to a part of this document or to a schema file beside it."""
    for node in walk(DOCUMENT):
        if "$ref" not in node:
            continue
        ref = node["$ref"]
        assert ref.startswith("#/") or (CONTRACTS / ref).is_file(), ref
        assert isinstance(resolve(node), dict), ref


def test_every_schema_file_is_used() -> None:
    """No schema lies beside the document without a place in it, but for what no server sends."""
    used = {node["$ref"] for node in walk(DOCUMENT) if "$ref" in node}
    files = {path.name for path in CONTRACTS.glob("*.schema.json")}

    assert files - used <= NEVER_SENT


def test_inline_schemas_are_valid() -> None:
    """What is written here and not in a file is JSON Schema 2020-12 as well."""
    for node in walk(DOCUMENT):
        if "schema" in node:
            Draft202012Validator.check_schema(node["schema"])


def test_examples_hold() -> None:
    """What the document shows as an example is right by the schema beside it."""
    shown = [
        (node["schema"], example)
        for node in walk(DOCUMENT)
        if "schema" in node
        for example in [
            *([node["example"]] if "example" in node else []),
            *(each["value"] for each in node.get("examples", {}).values()),
        ]
    ]

    assert shown
    for schema, example in shown:
        Draft202012Validator(schema, registry=REGISTRY).validate(example)


def test_components_are_used() -> None:
    """Every shared parameter, header and response is referred to."""
    used = {node["$ref"] for node in walk(DOCUMENT) if "$ref" in node}
    shared = {
        f"#/components/{kind}/{name}"
        for kind in ("parameters", "headers", "responses")
        for name in DOCUMENT["components"][kind]
    }

    assert shared - used == set()


def test_operation_ids_are_unique() -> None:
    """Each operation has a name of its own, for clients that are generated."""
    ids = [operation["operationId"] for operation in OPERATIONS.values()]

    assert len({*ids}) == len(ids)


def test_links_lead_to_operations() -> None:
    """Each link names an operation, and only parameters that it has."""
    targets = {operation["operationId"]: operation for operation in OPERATIONS.values()}
    links = [link for node in walk(DOCUMENT) for link in node.get("links", {}).values()]

    assert links
    for link in links:
        known = {resolve(item)["name"] for item in targets[link["operationId"]]["parameters"]}
        assert {*link["parameters"]} <= known


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_explained(name: str) -> None:
    """Each operation has a summary and a tag that is declared."""
    operation = OPERATIONS[name]

    assert operation["summary"]
    assert {*operation["tags"]} <= {tag["name"] for tag in DOCUMENT["tags"]}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_takes_request_id(name: str) -> None:
    """Every request may bring its own id, whatever it is: one that is unfit is replaced, not refused."""
    found = {
        (item["name"], item["in"]): item["schema"]
        for item in map(resolve, OPERATIONS[name]["parameters"])
    }

    assert found["X-Request-ID", "header"] == {"type": "string"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_path_parameters_are_declared(name: str) -> None:
    """The braces in a path and its parameters are the same, and those are required."""
    found = [item for item in map(resolve, OPERATIONS[name]["parameters"]) if item["in"] == "path"]
    expected = [part[1:-1] for part in name.split("/") if part.startswith("{")]

    assert [item["name"] for item in found] == expected
    assert all(item["required"] for item in found)


@pytest.mark.parametrize("name", OPERATIONS)
def test_key_is_optional_but_never_for_probes(name: str) -> None:
    """Probes ask for no key; the others can answer 401, and are open where no key is set."""
    security = OPERATIONS[name].get("security", DOCUMENT["security"])

    assert security == ([] if name in PROBES else [{}, {"bearer": []}, {"key": []}])
    assert ("401" in OPERATIONS[name]["responses"]) == (name not in PROBES)


@pytest.mark.parametrize(("name", "status", "response"), RESPONSES)
def test_response_has_both_headers(name: str, status: str, response: Any) -> None:
    """Every response carries its request id and the seconds it took."""
    headers = {key: resolve(header) for key, header in response["headers"].items()}

    assert response["description"]
    assert headers.keys() >= {"X-Request-ID", "X-Process-Time"}
    assert {key for key, header in headers.items() if not header["required"]} <= {
        "X-Ignored-Fields"
    }


@pytest.mark.parametrize(("name", "status", "response"), RESPONSES)
def test_error_has_the_envelope(name: str, status: str, response: Any) -> None:
    """Every error has the error body of its interface, but for the two reports that are no errors."""
    schema = response.get("content", {}).get("application/json", {}).get("schema")
    is_error = int(status) >= 400 and (name, status) not in REPORTS
    body = "messages-error.schema.json" if "/v1/messages" in name else "error.schema.json"

    assert (schema == {"$ref": body}) == is_error


@pytest.mark.parametrize(("name", "status", "response"), RESPONSES)
def test_refusal_says_when_to_come_back(name: str, status: str, response: Any) -> None:
    """A full queue and a model that is not ready come with Retry-After, and nothing else does."""
    expected = status in ("429", "503") and (name, status) not in REPORTS

    assert ("Retry-After" in response["headers"]) == expected
