"""
The conformance suite against families: `python -m tests.models.conformance ARCHIVES`.

For each family a small model of random weights is made, of the family's type and with the family's own chat
template, out of a package that carries it, its special tokens among the built-in model's. It is served as any
model is, and the suite's profiles `wire` and `openai` ask it.

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python
    python -m tests.models.conformance llama_cpp_python-*.tar.gz --out tests/models/conformance.md

No template is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tokenizers import AddedToken, Tokenizer

from service.catalog.card import EMBEDDED_FOLDER
from tests.live import ROOT, running
from tests.models import small
from tests.models.__main__ import versions
from tests.models.notations import SPECIAL
from tests.models.templates import templates

PROFILES = ("wire", "openai")
TIMEOUT_S = 120  # of an exchange; a machine may be busy
VERDICTS = ("PASS", "FAIL", "WARN", "NOT-TESTED", "INAPPLICABLE", "ENGINE-ERROR")


@dataclass(frozen=True)
class Family:
    """
    What is like a family.

    Attributes:
        name: what it is called.
        type: of its model.
        template: name of its chat template in the archives.
        end: the token that ends an answer.
    """

    name: str
    type: str
    template: str
    end: str


FAMILIES = (
    Family("Qwen 3", "qwen3", "Qwen-Qwen3-0.6B", "<|im_end|>"),
    Family("Llama 3.1", "llama", "meta-llama-Llama-3.1-8B-Instruct", "<|eot_id|>"),
    Family("Mistral Small 3.2", "mistral3", "Mistral-Small-3.2-24B-Instruct-2506", "</s>"),
    Family("gpt-oss", "gpt_oss", "openai-gpt-oss-120b", "<|return|>"),
)


def make(family: Family, template: str, folder: Path) -> None:
    """Make a small model in *folder* that is like *family*, with its chat *template*."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))
    special = dict.fromkeys([*SPECIAL.findall(template), family.end])
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    small.make(family.type, folder, tokenizer.get_vocab_size())
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    for name, key, value in (
        ("tokenizer_config.json", "eos_token", family.end),
        ("config.json", "eos_token_id", tokenizer.token_to_id(family.end)),
    ):
        known = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps(known | {key: value}, indent=1), "utf-8")


def asked(family: Family, template: str, scratch: Path) -> dict[str, Any]:
    """Serve a model like *family* and return the suite's report of it."""
    folder, report = scratch / family.type, scratch / f"{family.type}.json"
    make(family, template, folder)
    with running(scratch / f"{family.type}.log", MODEL_PATH=str(folder)) as server:
        server.wait_until("/readyz", 200, 60)
        command = ["-m", "pytest", "conformance", "-q", "-p", "no:cacheprovider"]
        command += [word for profile in PROFILES for word in ("--profile", profile)]
        command += ["--base-url", server.url, "--timeout", str(TIMEOUT_S)]
        command += ["--report-json", str(report)]
        run = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if not report.exists():
            raise click.ClickException(f"{family.name}: the suite broke: {run.stdout[-500:]}")
        tags = server.client().get("/v1/models").json()["data"][0]["tags"]
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found | {"tags": tags}


def markdown(reports: Sequence[tuple[Family, dict[str, Any]]], archives: Sequence[Path]) -> str:
    """Return *reports* as a page: how many requirements have which verdict, and which are not met."""
    built = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Conformance of families",
        "",
        "Small models of random weights, each of a family's type and with its real chat template, asked",
        "by the profiles "
        f"{' and '.join(f'`{each}`' for each in PROFILES)}: `python -m tests.models.conformance`.",
        f"Seen with {built}; templates of",
        ", ".join(f"`{each.name}`" for each in archives) + ".",
        "",
        f"| family | type | tags | verdict | {' | '.join(VERDICTS)} |",
        f"|{'---|' * (4 + len(VERDICTS))}",
    ]
    for family, report in reports:
        counts = " | ".join(str(report["counts"][verdict]) for verdict in VERDICTS)
        tags = ", ".join(report["tags"])
        lines.append(
            f"| {family.name} | `{family.type}` | {tags} | {report['verdict']} | {counts} |"
        )
    lines.append("")
    for family, report in reports:
        for each in report["requirements"]:
            if each["verdict"] not in {"PASS", "INAPPLICABLE"}:
                lines.append(f"- {family.name}, {each['id']}: {each['verdict']}. {why(each)}")
    return "\n".join(lines) + "\n"


def why(requirement: dict[str, Any]) -> str:
    """Return what the checks of a *requirement* saw that don't hold, or are open."""
    open_ones = [each for each in requirement["checks"] if each["verdict"] != "PASS"]
    return "; ".join(dict.fromkeys(" ".join(each["seen"].split()) for each in open_ones))


@click.command()
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--only", multiple=True, help="A family's type; by default all.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the table, in Markdown.")
def main(archives: tuple[Path, ...], only: tuple[str, ...], out: Path | None) -> None:
    """Ask small models of four families, with the chat templates in ARCHIVES."""
    known = {name: text for archive in archives for name, text in templates(archive)}
    reports = []
    for family in FAMILIES:
        if only and family.type not in only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            report = asked(family, known[family.template], Path(scratch))
        reports.append((family, report))
        print(f"{family.name}: {report['verdict']}, {report['reason']}", flush=True)
    page = markdown(reports, archives)
    print(page)
    if out is not None:
        out.write_text(page, "utf-8")
    sys.exit(any(report["counts"]["FAIL"] for _, report in reports))


if __name__ == "__main__":
    main()
