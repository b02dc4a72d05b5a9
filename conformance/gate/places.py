"""A place in the contracts: where it is, what stands there, and where references lead."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from conformance.gate.keywords import BRANCHES, WORDING
from conformance.gate.releases import SUFFIX, Contracts, Unreadable

OPENAPI = "openapi"


@dataclass(frozen=True)
class Spot:
    """
    A place in contracts, and what stands there.

    Attributes:
        document: name of a schema, or `openapi`.
        path: keys from the document's root.
        node: what stands there, or what is meant by nothing standing there.
    """

    contracts: Contracts
    document: str
    path: tuple[str, ...]
    node: Any

    @property
    def place(self) -> tuple[str, tuple[str, ...]]:
        """Document and path."""
        return self.document, self.path

    @property
    def pointer(self) -> str:
        """The path as JSON Pointer (RFC 6901)."""
        return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in self.path)

    @property
    def subject(self) -> str:
        """What the place belongs to: a schema, a route, or a component of the OpenAPI document."""
        match (self.document, *self.path):
            case ("openapi", "paths", path, method, *_):
                return f"{method.upper()} {path}"
            case ("openapi", "components", _, name, *_):
                return name
        return self.document

    @property
    def is_free(self) -> bool:
        """Whether this is a schema that everything passes."""
        if isinstance(self.node, dict):
            return not self.node.keys() - WORDING - {"$defs", "$schema"}
        return self.node is True

    def has(self, key: str) -> bool:
        """Whether an object with that key stands here."""
        return isinstance(self.node, dict) and key in self.node

    def child(self, *keys: str | int, default: Any = True) -> "Spot":
        """Return the place below; nothing there means *default*, by itself the free schema."""
        node = self.node
        for key in keys:
            try:
                node = node[key]
            except (LookupError, TypeError):
                node = default
                break
        return replace(self, path=(*self.path, *map(str, keys)), node=node)

    def children(self, key: str) -> list["Spot"]:
        """Return the entries of the list at *key*; none where there is no list."""
        return [self.child(key, place) for place in range(len(self.node.get(key, ())))]

    def entries(self, key: str) -> dict[str, "Spot"]:
        """Return the entries of the object at *key*, by name; none where there is no object."""
        return {name: self.child(key, name) for name in self.node.get(key, {})}

    def target(self) -> "Spot":
        """
        Return what the `$ref` here refers to.

        Raises:
            Unreadable: there is no such thing.
        """
        file, _, pointer = self.node["$ref"].partition("#")
        try:
            spot = root(self.contracts, file.removesuffix(SUFFIX) if file else self.document)
            start, *parts = pointer.split("/")
            if start:
                raise LookupError(start)  # an anchor: no contract has one
            for part in parts:
                key = part.replace("~1", "/").replace("~0", "~")
                node = spot.node[int(key) if isinstance(spot.node, list) else key]
                spot = replace(spot, path=(*spot.path, key), node=node)
        except (LookupError, TypeError, ValueError):
            where = f"{self.document}#{self.pointer}"
            raise Unreadable(f"{where}: {self.node['$ref']} leads nowhere") from None
        return spot

    def resolved(self) -> "Spot":
        """
        Follow references, as long as nothing but wording stands beside them.

        Raises:
            Unreadable: they lead nowhere, or in a circle.
        """
        spot, seen = self, {self.place}
        while spot.has("$ref") and not spot.node.keys() - WORDING - {"$ref"}:
            spot = spot.target()
            if spot.place in seen:
                raise Unreadable(f"{self.document}#{self.pointer}: $ref leads in a circle")
            seen.add(spot.place)
        return spot

    def references(self) -> Iterator["Spot"]:
        """Yield every place with a reference, here or below."""
        if self.has("$ref"):
            yield self
        nodes = self.node if isinstance(self.node, (dict, list)) else ()
        for key in nodes if isinstance(nodes, dict) else range(len(nodes)):
            yield from self.child(key).references()

    def names(self) -> frozenset[str]:
        """Return the fields that this schema names, or one that it applies to the same value."""
        found: set[str] = set()
        todo, seen = [self], set()
        while todo:
            spot = todo.pop()
            if spot.place in seen or not isinstance(spot.node, dict):
                continue
            seen.add(spot.place)
            found |= spot.node.get("properties", {}).keys()
            todo += [spot.target()] if "$ref" in spot.node else []
            todo += [spot.child(keyword) for keyword in ("then", "else")]
            todo += [inner for keyword in BRANCHES for inner in spot.children(keyword)]
        return frozenset(found)


def root(contracts: Contracts, document: str) -> Spot:
    """Return the whole document of that name: a schema's, or `openapi`."""
    node = contracts.openapi if document == OPENAPI else contracts.schemas[document]
    return Spot(contracts, document, (), node)
