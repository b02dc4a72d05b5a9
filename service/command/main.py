"""
`tier3a`: what a person types.

    tier3a serve [MODEL]       serve it
    tier3a check MODEL         look at it before: files, memory, context, template
    tier3a models              what the hub's cache on this machine holds
    tier3a key NAME            make a key for API_KEYS_FILE
    tier3a conformance URL     check a live server with the conformance suite
    tier3a bench URL           measure a live server for a moment
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from service.catalog import source
from service.catalog.card import UnfitModel
from service.command import bench
from service.command.serve import serve
from service.fleet.supervisor import child_environment
from service.roster import load_message
from service.settings import Settings, command
from service.web import keys

DISTRIBUTION = "mlx-tier3a"


@click.group(help="Local language models on MLX behind a stable OpenAI-compatible interface.")
@click.version_option(package_name=DISTRIBUTION, prog_name="tier3a")
def main() -> None:
    """Read which command is meant."""


def with_model(name: str, run: Callable[[Settings], None], help_: str) -> click.Command:
    """Return the command *name*: every option of the server, and a MODEL before them."""
    made = command(run)
    read_options = made.callback
    assert read_options is not None

    def read(model: str | None, **options: Any) -> None:
        if model is not None:
            options["model_path"] = model
        read_options(**options)

    argument = click.Argument(["model"], metavar="[MODEL]", required=False, callback=_checked)
    return click.Command(
        name, params=[argument, *made.params], callback=read, help=help_, epilog=made.epilog
    )


def _checked(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return MODEL as it was given; a path at which nothing is stops the command."""
    if value is not None:
        try:
            source.of(value, "MODEL")
        except UnfitModel as error:
            raise click.BadParameter(f"{error} ({value!r}).", param=param) from None
    return value


def check(settings: Settings) -> None:
    """Have a process of the engine's kind look at the model, and end with its status."""
    order = msgspec.json.encode(load_message(settings))
    sys.exit(_in_engine("service.engine.check", order))


main.add_command(
    with_model("serve", serve, "Serve MODEL: a folder with MLX weights, or a model of the hub.")
)
main.add_command(
    with_model(
        "check",
        check,
        "Look at MODEL as it would be served with these options: files, memory, context, template.",
    )
)
main.add_command(bench.command)


@main.command(help="List the models in the hub's cache on this machine.")
def models() -> None:
    """Have a process of the engine's kind list them."""
    sys.exit(_in_engine("service.engine.cached", b""))


@main.command(
    help="Make a key. The lines for API_KEYS_FILE are printed, the key itself to standard error."
)
@click.argument("name")
def key(name: str) -> None:
    """Print both; the key is kept nowhere."""
    if not re.fullmatch(keys.NAME, name):
        raise click.BadParameter(
            f"{name!r} is not 1 to 64 letters, digits, or any of . _ @ -.", param_hint="NAME"
        )
    secret, table = keys.new(name)
    click.echo(f"The key of {name}, shown only now: {secret}", err=True)
    click.echo(table)


@main.command(
    context_settings={"ignore_unknown_options": True},
    help="Check the server at URL with the conformance suite; what follows goes to pytest.",
)
@click.argument("url")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def conformance(url: str, arguments: tuple[str, ...]) -> None:
    """Run the suite, which is a distribution of its own, and end with its status."""
    if not all(map(importlib.util.find_spec, ("conformance", "pytest", "jsonschema", "h11"))):
        raise click.ClickException(
            "The suite is a distribution of its own, tier3a-conformance, which is not installed here. "
            "A checkout of this project has it: pip install ./conformance"
        )
    sys.exit(
        subprocess.call([sys.executable, "-P", "-m", "conformance", "--base-url", url, *arguments])
    )


def _in_engine(module: str, order: bytes) -> int:
    """Run *module* of the engine, which may import MLX, in a process of its own; return its status."""
    done = subprocess.run(
        [sys.executable, "-m", module], input=order, env=child_environment(), check=False
    )
    return done.returncode
