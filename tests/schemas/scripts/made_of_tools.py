"""
The schemas of tools, with values that keep them and values that don't.

    python made_of_tools.py

reads a list as JSON: schemas with their names, or commands that start servers of the Model Context
Protocol, whose tools are asked for. It prints what it has found in the form of the JSON Schema Test Suite.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis_jsonschema import from_schema
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

N_VALUES = 5  # taste
warnings.simplefilter("ignore")


async def tools_of(command: list[str]) -> list[dict[str, Any]]:
    """Return the tools of the server that *command* starts."""
    server = StdioServerParameters(command=command[0], args=command[1:])
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        listed = (await session.list_tools()).model_dump(by_alias=True)["tools"]
    name = Path(command[0]).name
    return [{"name": f"{name}: {tool['name']}", "schema": tool["inputSchema"]} for tool in listed]


def closed(schema: Any) -> Any:
    """Return *schema* without properties that it doesn't name: a client has no use for them."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return rest | {key: closed(inner) for key, inner in schema.items()}


def values_of(schema: Any) -> list[Any]:
    """Return values that keep *schema*, the same at every run."""
    found: list[Any] = []

    @seed(0)
    @settings(max_examples=N_VALUES, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(from_schema(closed(schema)))
    def take(value: Any) -> None:
        found.append(value)

    take()
    return found


def broken(values: list[Any]) -> list[Any]:
    """Return *values* with a property left out or of another type, one at a time."""
    random.seed(0)
    found = []
    for value in values:
        if isinstance(value, dict) and value:
            name = random.choice(list(value))
            found += [value | {name: [{"no": 0}]}, {n: v for n, v in value.items() if n != name}]
    return found


def main() -> None:
    """Print what becomes of what is given."""
    wanted = json.load(sys.stdin)
    if wanted and isinstance(wanted[0], list):
        wanted = [tool for command in wanted for tool in asyncio.run(tools_of(command))]
    found = []
    for each in wanted:
        values = values_of(each["schema"])
        validator = jsonschema.Draft202012Validator(each["schema"])
        tests = [{"data": v, "valid": validator.is_valid(v)} for v in [*values, *broken(values)]]
        found.append({"description": each["name"], "schema": each["schema"], "tests": tests})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
