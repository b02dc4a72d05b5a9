"""Answers without the form that they must have."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

from conformance.broken.capable import Capable
from conformance.broken.fault import breaks
from conformance.broken.forms import is_schema
from conformance.broken.miniature import Asked, Refused
from conformance.broken.seeing import Body
from conformance.broken.talking import Said

ADDRESS = re.compile(r"http://([\d.]+):(\d+)")


@breaks("SCHEMA-1", also={"SCHEMA-2", "SCHEMA-3", "SCHEMA-4", "PARAM-7"})
class FenceAroundTheJson(Capable):
    def said(self, body: Body) -> Said:
        found = super().said(body)
        if self.form(body) is None:
            return found
        return Said(["```json\n", *found.tokens, "\n```"], found.ending)


@breaks("SCHEMA-1", also={"SCHEMA-3", "PARAM-7"})
class LastOfSeveralPropertiesIsMissing(Capable):
    def value(self, schema: Any) -> Any:
        found = super().value(schema)
        return dict(list(found.items())[:-1]) if len(found) > 1 else found


@breaks("SCHEMA-1")
class FormIsPassedOverInStreams(Capable):
    def chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        return super().chunks(asked, body | {"response_format": None})


@breaks("SCHEMA-2")
class BoundsOfNumbersAreLoose(Capable):
    def value(self, schema: Any) -> Any:
        found = super().value(schema)
        return {name: 0 if value == 17 else value for name, value in found.items()}


@breaks("SCHEMA-2")
class BoundsOfListsAreLoose(Capable):
    def value(self, schema: Any) -> Any:
        found = super().value(schema)
        return found | {"value": []} if isinstance(found.get("value"), list) else found


@breaks("SCHEMA-2")
class BoundsAreOurFault(Capable):
    def demand_form(self, body: Body) -> None:
        super().demand_form(body)
        if "minLength" in json.dumps(self.form(body)):
            raise Refused(500, "no idea", "internal_error")


@breaks("SCHEMA-3")
class AnyOfIsAnything(Capable):
    def value(self, schema: Any) -> Any:
        return super().value(schema) | ({"note": "?"} if "$defs" in schema else {})


@breaks("SCHEMA-3")
class DepthIsLost(Capable):
    def value(self, schema: Any) -> Any:
        found = super().value(schema)
        return {"a": {}} if "a" in found else found


@breaks("SCHEMA-4")
class JsonObjectIsText(Capable):
    def form(self, body: Body) -> Any:
        wanted = body.get("response_format") or {}
        return None if wanted.get("type") == "json_object" else super().form(body)


@breaks("SCHEMA-4")
class JsonObjectIsAList(Capable):
    def value(self, schema: Any) -> Any:
        return super().value(schema) if "properties" in schema else []


@breaks("SCHEMA-5")
class NoSchemaIsAnySchema(Capable):
    def demand_form(self, body: Body) -> None:
        if "://" in json.dumps(self.form(body)):
            super().demand_form(body)

    def value(self, schema: Any) -> Any:
        return super().value(schema) if is_schema(schema) else {}


@breaks("SCHEMA-5")
class WrongSchemaIsNotNamed(Capable):
    def demand_form(self, body: Body) -> None:
        try:
            super().demand_form(body)
        except Refused:
            raise Refused(400, "something is wrong", "invalid_value") from None


@breaks("SCHEMA-6")
class SchemaIsFetched(Capable):
    def demand_form(self, body: Body) -> None:
        for host, port in ADDRESS.findall(json.dumps(self.form(body))):
            with contextlib.suppress(OSError):
                socket.create_connection((host, int(port)), timeout=1).close()
        super().demand_form(body)


@breaks("SCHEMA-6")
class RemoteReferenceIsAnything(Capable):
    def demand_form(self, body: Body) -> None:
        if "://" not in json.dumps(self.form(body)):
            super().demand_form(body)

    def value(self, schema: Any) -> Any:
        return super().value(schema) if is_schema(schema) else {}
