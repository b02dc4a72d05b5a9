"""
Schemas that pydantic and instructor make, with what keeps them and what doesn't.

    python made_by_pydantic.py

prints them as JSON, for an environment that has both packages.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal

import instructor
from pydantic import (
    UUID4,
    AnyUrl,
    AwareDatetime,
    Base64Str,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PositiveInt,
    SecretStr,
    StringConstraints,
    TypeAdapter,
)


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    """A cat."""

    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    """A dog; its kind has a default, and so is not required."""

    kind: Literal["dog"] = "dog"
    name: str


class Owner(BaseModel):
    """Someone with a pet, by a field that tells which."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Either(BaseModel):
    """Someone with a pet, of whichever kind fits."""

    pet: Cat | Dog


class Node(BaseModel):
    """A tree."""

    value: str
    children: list[Node] = []


class Closed(BaseModel):
    """Nothing but its fields."""

    model_config = ConfigDict(extra="forbid")
    a: int | None = None


class Open(BaseModel):
    """Its fields, and more."""

    model_config = ConfigDict(extra="allow")
    a: int


class Person(BaseModel):
    """What many an extraction asks for."""

    name: str = Field(description="Full name.", min_length=1, max_length=40)
    age: int = Field(ge=0, le=150)
    email: str | None = Field(None, pattern=r"^\S+@\S+$")
    colour: Colour = Colour.RED
    tags: list[str] = Field(default_factory=list, max_length=3)


class User(BaseModel):
    """A model among others, by reference."""

    person: Person
    friends: dict[str, Person] = {}


def text(pattern: str) -> Any:
    """Return the type of a text of *pattern*."""
    return Annotated[str, StringConstraints(pattern=pattern)]


PERSON = {"name": "Ada", "age": 36, "email": "a@b.c", "colour": "blue", "tags": ["x"]}
UUID = str(uuid.UUID(int=7, version=4))
# A type, values that keep it, values that don't.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (Person, [PERSON], [PERSON | {"age": -1}, PERSON | {"colour": "green"}, {"name": "Ada"}]),
    (User, [{"person": PERSON, "friends": {"Bob": PERSON}}], [{"person": 1}]),
    (Owner, [{"pet": {"kind": "cat", "lives": 3}}, {"pet": {"kind": "dog", "name": "Rex"}}],
     [{"pet": {"kind": "cow"}}, {"pet": {"kind": "dog", "name": 1}}]),
    (Either, [{"pet": {"kind": "dog", "name": "Rex"}}], [{"pet": {"kind": "dog", "name": 1}}]),
    (Node, [{"value": "a", "children": [{"value": "b", "children": []}]}], [{"value": 1}]),
    (Closed, [{"a": 1}, {"a": None}, {}], [{"b": 1}]),
    (Open, [{"a": 1, "b": [2]}], [{"a": "x"}]),
    (list[Person], [[PERSON], []], [PERSON]),
    (Colour, ["red"], ["green"]),
    (int | str | None, [1, "x", None], [[1], 1.5]),
    (bool, [True], ["true"]),
    (float, [1.5, 2], ["x"]),
    (Decimal, [1.5, "1.5"], [True]),
    (PositiveInt, [1], [0]),
    (Annotated[int, Field(multiple_of=5)], [10], [11]),
    (Annotated[float, Field(gt=0, lt=1)], [0.5], [1, 0]),
    (Annotated[list[int], Field(min_length=1, max_length=2)], [[1], [1, 2]], [[], [1, 2, 3]]),
    (set[int], [[1, 2], []], [["x"]]),
    (frozenset[Colour], [["red"]], [["green"]]),
    (tuple[int, str], [[1, "a"]], [["a", 1], [1]]),
    (tuple[int, ...], [[1, 2], []], [["a"]]),
    (dict[str, int], [{"a": 1}, {}], [{"a": "x"}]),
    (dict[int, str], [{"1": "x"}], [{"1": 1}]),
    (dict[Colour, int], [{"red": 1}, {}], [{"green": 1}, {"red": "x"}]),
    (dict[Literal["a", "b"], int], [{"a": 1}], [{"c": 1}]),
    (dict[text("^[a-z]+$"), int], [{"a": 1}], [{"A": 1}]),
    (dict[str, Any], [{"a": [1, {"b": None}]}], [[]]),
    (Mapping[str, list[Colour]], [{"a": ["red"]}], [{"a": ["x"]}]),
    (Any, [1, "x", {"a": []}], []),
    (datetime, ["2024-05-06T07:08:09Z"], ["2024-05-06"]),
    (AwareDatetime, ["2024-05-06T07:08:09Z"], ["noon"]),
    (date, ["2024-05-06"], ["2024-13-06"]),
    (time, ["07:08:09Z"], ["noon"]),
    (timedelta, ["P1DT2H"], ["a day"]),
    (uuid.UUID, [UUID], ["x"]),
    (UUID4, [UUID], [1]),
    (AnyUrl, ["https://a.example/b"], [1]),
    (Path, ["/tmp/x"], [1]),
    (bytes, ["abc"], [1]),
    (Base64Str, ["YWJj"], [1]),
    (SecretStr, ["x"], [1]),
    (IPv4Address, ["127.0.0.1"], ["127.0.0.256"]),
    (Json[dict[str, int]], ['{"a": 1}'], [1]),
    (text(r"^\d{3}-\d{4}$"), ["555-1234"], ["555-123"]),
    (Literal["a", 1, None], ["a", 1, None], ["b"]),
    (None, [None], [0]),
]  # fmt: skip


def main() -> None:
    """Print what each package makes of each type."""
    found: dict[str, list[Any]] = {"pydantic": [], "instructor": []}
    for kind, kept, broken in CASES:
        tests = [{"data": each, "valid": True} for each in kept]
        tests += [{"data": each, "valid": False} for each in broken]
        schema = TypeAdapter(kind).json_schema()
        name = getattr(kind, "__name__", str(kind))
        found["pydantic"].append({"description": name, "schema": schema, "tests": tests})
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            made: Any = instructor.openai_schema(kind)
            parameters = made.openai_schema["parameters"]
            found["instructor"].append({"description": name, "schema": parameters, "tests": tests})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
