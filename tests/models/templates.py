"""
What real chat templates take, and that nothing said is lost with them: a table, made by hand.

    pip download --no-deps --no-binary :all: llama-cpp-python
    pip download --no-deps mlx-openai-server
    python -m tests.models.templates llama_cpp_python-*.tar.gz mlx_openai_server-*.whl > templates.md

Every `.jinja` file in the archives is rendered with chats that templates drop parts of or refuse. The
tokenizer is the built-in model's, with marks for thoughts. No template is kept.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path, PurePath

from mlx_lm.tokenizer_utils import TokenizerWrapper, load

from service.engine.text.abilities import REFUSALS, Abilities
from service.engine.text.chat_template import ChatTemplate, LostTurn
from service.protocol import Chat, Turn
from tests import thinking_model
from tests.engine.demanding_chats import ADD, CHATS, missing_words

SUFFIXES = (".jinja", ".jinja2")
HELLO = (Turn("user", "Hello"),)
PACKAGES = ("transformers", "jinja2", "mlx-lm")


def main(archives: Sequence[str]) -> int:
    """Print the table of the templates in *archives*; return how many lose something."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load(thinking_model.make(Path(folder) / "model"))
        rows = [row(tokenizer, *each) for path in archives for each in templates(Path(path))]
    n_lossy = sum(row[-1] != "" for row in rows)
    print("# What chat templates take\n")
    print("With " + ", ".join(f"{name} {version(name)}" for name in PACKAGES) + "; templates of")
    print(", ".join(f"`{Path(each).name}`" for each in archives) + ".\n")
    print(f"Of {len(rows)} templates, {n_lossy} lose or refuse something of {len(CHATS)} chats,")
    print("each without tools and, where the template shows them, with one.\n")
    print(
        "| template | shows tools | what it doesn't take, or takes in its own way | lost or refused |"
    )
    print("|---|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(cells) + " |")
    return n_lossy


def templates(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each template in the archive or file at *path*."""
    if path.suffix in SUFFIXES:
        yield path.stem, path.read_text("utf-8")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(SUFFIXES):
                    yield PurePath(name).stem, archive.read(name).decode()
    else:
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                if member.isfile() and member.name.endswith(SUFFIXES):
                    file = archive.extractfile(member)
                    assert file is not None
                    yield PurePath(member.name).stem, file.read().decode()


def row(tokenizer: TokenizerWrapper, name: str, text: str) -> tuple[str, str, str, str]:
    """Return the cells of one template."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = text
    template = ChatTemplate(own)
    has_tools = ADD.name in (rendered(template, Chat(HELLO, (ADD,))) or "")
    chats = [(chat, tools) for chat in CHATS for tools in ((), (ADD,))[: 1 + has_tools]]
    faults = {chat for chat, tools in chats if is_lossy(template, Chat(CHATS[chat], tools))}
    abilities = template.abilities(has_tools=has_tools)
    return name, "yes" if has_tools else "", in_words(abilities), "; ".join(sorted(faults))


def is_lossy(template: ChatTemplate, chat: Chat) -> bool:
    """Whether something that *chat* says is not in its prompt."""
    text = rendered(template, chat)
    return text is None or bool(missing_words(chat.turns, text))


def rendered(template: ChatTemplate, chat: Chat) -> str | None:
    """Return the prompt; None where the chat is refused."""
    try:
        return template.render(chat).text
    except (LostTurn, *REFUSALS):
        return None


def in_words(abilities: Abilities) -> str:
    """Return in what *abilities* differ from those of a template that takes all."""
    found = []
    for field in dataclasses.fields(abilities):
        value = getattr(abilities, field.name)
        name = field.name.replace("_", " ")
        if value != field.default:
            found.append({True: name, False: f"no {name}"}.get(value) or f"{name}: {value}")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
