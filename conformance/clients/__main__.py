"""
Judge a Tier 2 client: `python -m conformance.clients [--limit SECONDS] COMMAND ...`.

The command is run with the address of a server that is played in place of `{url}`, and in
TIER3A_BASE_URL. It shall do what the client does: wait for the server, choose a model, send a few
chats, of which at least three are streamed, and end. The server makes trouble meanwhile; see
`stage`. What the client is to do about that stands in `rows.toml`.
"""

import argparse
import os
import subprocess
import sys

from conformance.clients import judge, stage
from conformance.clients.judge import Record

LIMIT_S = 60.0


def run(words: list[str], limit_s: float) -> Record:
    """
    Run a client against a server that is played, and return what was seen of it.

    Raises:
        OSError: the command can't be run.
    """
    with stage.played() as server:
        command = [word.replace("{url}", server.url) for word in words]
        environment = os.environ | {"TIER3A_BASE_URL": server.url}
        try:
            status = subprocess.run(
                command, env=environment, timeout=limit_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        return Record(tuple(sorted(server.seen, key=lambda each: each.at_s)), status)


def main(words: list[str]) -> int:
    """Judge the client that *words* name, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="conformance.clients", description="Judge a Tier 2 client."
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, help="seconds that it may take (60)"
    )
    parser.add_argument("--json", action="store_true", help="say it for programs")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the client; {url} is the server")
    asked = parser.parse_args(words)
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not command:
        parser.error("say which command runs the client")
    try:
        said = judge.judge(run(command, asked.limit))
    except OSError as error:
        parser.error(f"{command[0]}: {error.strerror}")
    print(judge.as_json(said) if asked.json else "\n".join(judge.lines(said)))
    return judge.exit_code(said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
