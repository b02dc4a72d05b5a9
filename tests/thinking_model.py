"""A model that thinks before it answers, made of the built-in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from service.catalog.card import EMBEDDED_FOLDER

THINK, END = "<think>", "</think>"
END_ID = 1279
_OPENING = '{{- "<start_of_turn>model\\n" -}}\n{%- endif -%}'
_THINKING = """{{- "<start_of_turn>model\\n" -}}
{%- if enable_thinking is defined and enable_thinking -%}{{- "<think>" -}}{%- endif -%}
{%- endif -%}"""


def make(folder: Path) -> Path:
    """
    Write the model into *folder*, which must not exist yet, and return it.

    Its padding token opens thoughts, its last one ends them, and its template opens them by itself
    unless it is told not to.
    """
    shutil.copytree(EMBEDDED_FOLDER, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    added, model = tokenizer["added_tokens"], tokenizer["model"]
    added[0]["content"] = THINK
    added.append(added[0] | {"id": END_ID, "content": END})
    model["vocab"] = {text: i for text, i in model["vocab"].items() if i not in {0, END_ID}}
    model["vocab"] |= {THINK: 0, END: END_ID}
    known = model["vocab"].keys()
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in known]
    path.write_text(json.dumps(tokenizer), "utf-8")
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text("utf-8").replace("<pad>", THINK), "utf-8")
    template = folder / "chat_template.jinja"
    text = template.read_text("utf-8")
    assert _OPENING in text
    template.write_text(text.replace(_OPENING, _THINKING), "utf-8")
    return folder
