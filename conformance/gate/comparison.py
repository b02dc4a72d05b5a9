"""The walk over two versions of the contracts, side by side."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from conformance.gate.keywords import BRANCHES, KNOWN, OPAQUE, PARTS, RULES, WORDING, Effect
from conformance.gate.places import OPENAPI, Spot, root
from conformance.gate.releases import Contracts

METHODS = frozenset(("get", "put", "post", "delete", "options", "head", "patch", "trace"))
PARTIES = ("consumers", "producers")
INTERFACE, REQUEST, RESPONSE = "interface", "request", "response"
BREAKS = {
    (REQUEST, Effect.NARROWED): ("consumers",),
    (REQUEST, Effect.WIDENED): ("producers",),
    (REQUEST, Effect.REMOVED): PARTIES,
    (RESPONSE, Effect.NARROWED): ("producers",),
    (RESPONSE, Effect.WIDENED): ("consumers",),
    (RESPONSE, Effect.REMOVED): ("consumers",),
    (INTERFACE, Effect.REMOVED): ("consumers",),
    **{(side, Effect.UNCLEAR): PARTIES for side in (INTERFACE, REQUEST, RESPONSE)},
}


@dataclass(frozen=True)
class Change:
    """
    One difference between two versions of the contracts.

    Attributes:
        side: what the place describes: `request`, `response`, or the `interface` as a whole.
        subject: schema, route or component that it belongs to, as a changelog would name it.
        pointer: JSON Pointer into the file; empty for the whole of it.
        what: the difference in words.
        effect: what it does.
    """

    side: str
    subject: str
    pointer: str
    what: str
    effect: Effect

    @property
    def breaks(self) -> tuple[str, ...]:
        """Parties that relied on what is no longer so."""
        return BREAKS.get((self.side, self.effect), ())

    def __str__(self) -> str:
        where = "  ".join(filter(None, (f"{self.side} {self.subject}", self.pointer)))
        unclear = " (unclear, so it counts for both)" if self.effect is Effect.UNCLEAR else ""
        return f"{where}: {self.what}{unclear}"


Changes = Iterator[Change]


def compare(old: Contracts, new: Contracts) -> list[Change]:
    """
    Return every change from *old* to *new*, each once.

    Raises:
        Unreadable: a reference leads nowhere.
    """
    return list(dict.fromkeys(_Walk().everything(old, new)))


class _View(NamedTuple):
    """
    How a pair of schemas is looked at.

    Attributes:
        side: who sends the value.
        is_clear: what passes less here lets less pass altogether; not so inside an `if`.
        old: the old schema of the whole value, of which the one looked at may be a branch.
        new: the new one.
    """

    side: str
    is_clear: bool = True
    old: Spot | None = None
    new: Spot | None = None

    def change(self, spot: Spot, what: str, effect: Effect) -> Change:
        is_known = self.is_clear or effect is Effect.WORDING
        told = effect if is_known else Effect.UNCLEAR
        return Change(self.side, spot.subject, spot.pointer, what, told)

    def unclear(self) -> "_View":
        return self._replace(is_clear=False)


class _Walk:
    """Visits each pair of places once, so that references in a circle come to an end."""

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._led_to: set[str] = set()

    def everything(self, old: Contracts, new: Contracts) -> Changes:
        yield from self._document(root(old, OPENAPI), root(new, OPENAPI))
        view = _View(RESPONSE)
        for name in {**old.schemas, **new.schemas}:
            if name not in new.schemas:
                yield view.change(root(old, name), "schema removed", Effect.REMOVED)
            elif name not in old.schemas:
                yield view.change(root(new, name), "new schema", Effect.ADDED)
            elif name not in self._led_to:
                yield from self._value(view, root(old, name), root(new, name))

    # The OpenAPI document

    def _document(self, old: Spot, new: Spot) -> Changes:
        view = _View(INTERFACE)
        yield from _others(view, old, new, "info", "paths", "components", "security")
        yield from _others(view, old.child("info"), new.child("info"), "version")
        before, after = _operations(old), _operations(new)
        for name in {**before, **after}:
            if name not in after:
                yield view.change(before[name], "route removed", Effect.REMOVED)
            elif name not in before:
                yield view.change(after[name], "new route", Effect.ADDED)
            else:
                yield from self._operation(view, before[name], after[name])

    def _operation(self, view: _View, old: Spot, new: Spot) -> Changes:
        handled = ("parameters", "requestBody", "responses", "security")
        yield from _others(view, old, new, *handled)
        if _security(old) != _security(new):
            yield view.change(new.child("security"), "other security", Effect.UNCLEAR)
        place = new.child("parameters")
        yield from self._fields(_View(REQUEST), place, _parameters(old), _parameters(new))
        yield from self._request_body(_View(REQUEST), old, new)
        yield from self._responses(_View(RESPONSE), old, new)

    def _fields(
        self, view: _View, place: Spot, old: dict[str, Spot], new: dict[str, Spot]
    ) -> Changes:
        """Compare parameters or headers, each resolved, by their names."""
        for name in {**old, **new}:
            if name not in new:
                yield view.change(place, f"{name} removed", Effect.REMOVED)
            elif name not in old and new[name].node.get("required"):
                yield view.change(place, f"{name} is new, and required", Effect.NARROWED)
            elif name not in old:
                yield view.change(place, f"{name} is new", Effect.ADDED)
            else:
                yield from _demand(view, old[name], new[name])
                before, after = old[name].child("schema"), new[name].child("schema")
                yield from self._value(view, before, after)
                handled = ("name", "in", "required", "schema")
                yield from _others(view, old[name], new[name], *handled)

    def _request_body(self, view: _View, old: Spot, new: Spot) -> Changes:
        before = old.child("requestBody", default={}).resolved()
        after = new.child("requestBody", default={}).resolved()
        place = new.child("requestBody")
        if not before.node and after.node:
            effect = Effect.NARROWED if after.node.get("required") else Effect.ADDED
            yield view.change(place, "takes a body now", effect)
        elif before.node and not after.node:
            yield view.change(place, "takes no body any more", Effect.REMOVED)
        else:
            yield from _demand(view, before, after)
            yield from self._contents(view, before, after)
            yield from _others(view, before, after, "required", "content")

    def _responses(self, view: _View, old: Spot, new: Spot) -> Changes:
        before, after = old.entries("responses"), new.entries("responses")
        for status in {**before, **after}:
            place = new.child("responses", status)
            if status not in after:
                yield view.change(place, "status removed", Effect.NARROWED)
                if status.startswith("2"):
                    yield view.change(place, "status removed", Effect.REMOVED)
            elif status not in before:
                yield view.change(place, "new status", Effect.WIDENED)
            else:
                yield from self._response(view, before[status].resolved(), place.resolved())

    def _response(self, view: _View, old: Spot, new: Spot) -> Changes:
        before, after = (
            {name.lower(): header.resolved() for name, header in spot.entries("headers").items()}
            for spot in (old, new)
        )
        yield from self._fields(view, new.child("headers"), before, after)
        yield from self._contents(view, old, new)
        yield from _others(view, old, new, "headers", "content")

    def _contents(self, view: _View, old: Spot, new: Spot) -> Changes:
        before, after = old.entries("content"), new.entries("content")
        for media in {**before, **after}:
            place = new.child("content", media)
            if media not in after:
                yield view.change(place, "media type removed", Effect.NARROWED)
                if view.side == RESPONSE:
                    yield view.change(place, "media type removed", Effect.REMOVED)
            elif media not in before:
                yield view.change(place, "new media type", Effect.WIDENED)
            else:
                schema = before[media].child("schema")
                yield from self._value(view, schema, place.child("schema"))
                yield from _others(view, before[media], place, "schema")

    # Schemas

    def _value(self, view: _View, old: Spot, new: Spot) -> Changes:
        """Compare the schemas of a value of its own."""
        return self._schemas(view._replace(old=old, new=new), old, new)

    def _schemas(self, view: _View, old: Spot, new: Spot) -> Changes:
        """Compare schemas, which may be one of several that are applied to the same value."""
        if not (old.has("$ref") and new.has("$ref")):
            old, new = old.resolved(), new.resolved()
        pair = (old.place, new.place, view.side, view.is_clear)
        if pair in self._seen:
            return
        self._seen.add(pair)
        if old.place == new.place == (new.document, ()):
            self._led_to.add(new.document)
        if (old.is_free and new.is_free) or old.node is False is new.node:
            yield from _wording(view, old, new)
        elif new.node is False:
            yield view.change(new, "forbidden", Effect.NARROWED)
        elif old.node is False:
            yield view.change(new, "no longer forbidden", Effect.WIDENED)
        elif old.is_free:
            yield view.change(new, "held to a schema now", Effect.NARROWED)
        elif new.is_free:
            yield view.change(new, "no longer held to a schema", Effect.WIDENED)
        else:
            yield from self._keywords(view, old, new)

    def _keywords(self, view: _View, old: Spot, new: Spot) -> Changes:
        yield from _wording(view, old, new)
        unknown = (old.node.keys() | new.node.keys()) - KNOWN
        view = view.unclear() if unknown else view
        for keyword in (*OPAQUE, *sorted(unknown)):
            was, now = old.child(keyword, default=None), new.child(keyword, default=None)
            if was.node != now.node:
                yield view.change(new, f"other {keyword}", Effect.UNCLEAR)
            elif keyword in unknown:  # the same words, but they may refer to something else now
                for pair in zip(was.references(), now.references(), strict=True):
                    yield from self._schemas(view, *pair)
        for rule in RULES:
            for path, what, effect in rule(old.node, new.node):
                yield view.change(new.child(*path), what, effect)
        if old.has("$ref") or new.has("$ref"):
            yield from self._schemas(view, _referred(old), _referred(new))
        yield from self._properties(view, old, new)
        yield from self._first_items(view, old, new)
        for keyword in PARTS:
            if old.has(keyword) or new.has(keyword):
                yield from self._value(view, old.child(keyword), new.child(keyword))
        for keyword, inner in (("contains", view), ("not", view.unclear())):
            if old.has(keyword) and new.has(keyword):
                yield from self._value(inner, old.child(keyword), new.child(keyword))
            else:  # nothing there is not the same as the free schema
                yield from _presence(view, keyword, old, new)
        yield from self._conditions(view, old, new)
        for keyword in BRANCHES:
            yield from self._branches(view, keyword, old, new)

    def _properties(self, view: _View, old: Spot, new: Spot) -> Changes:
        """Compare fields; one without a name here is held to `additionalProperties`."""
        before, after = old.entries("properties"), new.entries("properties")
        for name in {**before, **after}:
            was = before.get(name) or _stand_in(old, "additionalProperties", "properties", name)
            now = after.get(name) or _stand_in(new, "additionalProperties", "properties", name)
            is_new = name not in before and was.is_free and now.node is not False
            is_gone = name not in after and now.is_free and was.node is not False
            if is_new and not _is_named(name, view.old):
                yield view.change(now, "new field", Effect.ADDED)
            elif is_gone and not _is_named(name, view.new):
                yield view.change(now, "field removed", Effect.REMOVED)
            else:
                yield from self._value(view, was, now)

    def _first_items(self, view: _View, old: Spot, new: Spot) -> Changes:
        """Compare the first items, place by place; one without a schema here is held to `items`."""
        n_places = max(len(spot.node.get("prefixItems", ())) for spot in (old, new))
        for place in range(n_places):
            was, now = (
                spot.child("prefixItems", place)
                if place < len(spot.node.get("prefixItems", ()))
                else _stand_in(spot, "items", "prefixItems", str(place))
                for spot in (old, new)
            )
            yield from self._value(view, was, now)

    def _conditions(self, view: _View, old: Spot, new: Spot) -> Changes:
        if old.has("if") and new.has("if"):
            yield from self._schemas(view.unclear(), old.child("if"), new.child("if"))
        for keyword in ("then", "else") if old.has("if") or new.has("if") else ():
            was, now = (  # without `if` neither means anything
                spot.child(keyword) if spot.has("if") else replace(spot.child(keyword), node=True)
                for spot in (old, new)
            )
            yield from self._schemas(view, was, now)

    def _branches(self, view: _View, keyword: str, old: Spot, new: Spot) -> Changes:
        if keyword != "allOf" and old.has(keyword) != new.has(keyword):
            yield from _presence(view, keyword, old, new)
            return
        view = view.unclear() if keyword == "oneOf" else view
        fewer, more = Effect.WIDENED, Effect.NARROWED
        if keyword == "anyOf":
            fewer, more = more, fewer
        for was, now in _pairs(old.children(keyword), new.children(keyword)):
            if was is not None and now is not None:
                yield from self._schemas(view, was, now)
            elif was is not None:
                yield view.change(was, "branch removed", fewer)
            elif now is not None:
                yield view.change(now, "new branch", more)


def _operations(document: Spot) -> dict[str, Spot]:
    """Return the operations by method and path, such as `GET /health`."""
    paths = document.entries("paths")
    return {
        f"{method.upper()} {path}": paths[path].child(method)
        for path in paths
        for method in paths[path].node
        if method in METHODS
    }


def _parameters(operation: Spot) -> dict[str, Spot]:
    """Return the parameters by place and name, those of the whole path included."""
    document = root(operation.contracts, OPENAPI)
    shared = document.child(*operation.path[:-1], default={}).children("parameters")
    found = [spot.resolved() for spot in (*shared, *operation.children("parameters"))]
    return {f"{spot.node['in']} parameter {spot.node['name']}": spot for spot in found}


def _security(operation: Spot) -> Any:
    """Return the ways in, any of which is enough, with their schemes."""
    document = operation.contracts.openapi
    schemes = document.get("components", {}).get("securitySchemes", {})
    ways = operation.node.get("security", document.get("security", []))
    return [
        {
            name: (scopes, {k: v for k, v in schemes.get(name, {}).items() if k not in WORDING})
            for name, scopes in way.items()
        }
        for way in ways
    ]


def _demand(view: _View, old: Spot, new: Spot) -> Changes:
    before, after = (spot.node.get("required", False) for spot in (old, new))
    if after and not before:
        yield view.change(new, "now required", Effect.NARROWED)
    if before and not after:
        yield view.change(new, "no longer required", Effect.WIDENED)


def _others(view: _View, old: Spot, new: Spot, *handled: str) -> Changes:
    """Compare the keys that have no rule of their own."""
    yield from _wording(view, old, new)
    for key in sorted((old.node.keys() | new.node.keys()) - WORDING - {*handled}):
        if old.node.get(key) != new.node.get(key):
            yield view.change(new.child(key), f"other {key}", Effect.UNCLEAR)


def _wording(view: _View, old: Spot, new: Spot) -> Changes:
    before, after = (spot.node if isinstance(spot.node, dict) else {} for spot in (old, new))
    for key in sorted((before.keys() | after.keys()) & WORDING):
        if before.get(key) != after.get(key):
            yield view.change(new, f"other {key}", Effect.WORDING)


def _presence(view: _View, keyword: str, old: Spot, new: Spot) -> Changes:
    if new.has(keyword) and not old.has(keyword):
        yield view.change(new, f"{keyword} added", Effect.NARROWED)
    if old.has(keyword) and not new.has(keyword):
        yield view.change(new, f"{keyword} removed", Effect.WIDENED)


def _referred(spot: Spot) -> Spot:
    return spot.target() if spot.has("$ref") else spot.child("$ref")


def _is_named(name: str, value: Spot | None) -> bool:
    """Whether any schema that holds for the same value names the field."""
    return value is not None and name in value.names()


def _stand_in(spot: Spot, keyword: str, *path: str) -> Spot:
    """Return the schema at *keyword* as what holds for the place at *path*."""
    return replace(spot.child(keyword), path=(*spot.path, *path))


def _pairs(old: list[Spot], new: list[Spot]) -> Iterator[tuple[Spot | None, Spot | None]]:
    """Pair equal branches first, wherever they stand, and the rest in their order."""
    rest = list(new)
    alone = []
    for was in old:
        place = next((n for n, now in enumerate(rest) if now.node == was.node), None)
        if place is None:
            alone.append(was)
        else:
            yield was, rest.pop(place)
    yield from itertools.zip_longest(alone, rest)
