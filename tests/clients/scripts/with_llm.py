"""The command `llm` and its library, with this server as an extra OpenAI model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import llm
from click.testing import CliRunner
from forecast import Forecast, weather
from llm.cli import cli
from steps import API, MODEL, QUESTION, Steps

step = Steps("llm")
HOME = Path(sys.prefix, "llm")
KINDS: dict[str, dict[str, bool]] = {
    "chat": {"supports_schema": True, "supports_tools": True},
    "text": {"completion": True},
    "responses": {"responses": True, "supports_schema": True, "supports_tools": True},
}
MODELS = [
    {"model_id": f"local-{kind}", "model_name": MODEL, "api_base": API, **more}
    for kind, more in KINDS.items()
]
os.environ["LLM_USER_PATH"] = str(HOME)
HOME.mkdir(exist_ok=True)
(HOME / "extra-openai-models.yaml").write_text(json.dumps(MODELS), "utf-8")


@step
def command_line() -> str:
    command = ["-m", "local-chat", "-o", "temperature", "0", QUESTION]
    ended = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert ended.exit_code == 0
    assert ended.output.strip()
    return ended.output


@step
def prompt() -> str:
    return llm.get_model("local-chat").prompt(QUESTION, stream=False).text()


@step
def stream_with_usage() -> str:
    answer = llm.get_model("local-chat").prompt(QUESTION, stream=True)
    text = "".join(answer)
    assert text
    assert answer.usage().output > 0
    return text


@step
def conversation() -> str:
    talk = llm.get_model("local-chat").conversation()
    assert talk.prompt("Hello").text()
    return talk.prompt(QUESTION).text()


@step
def schema() -> Forecast:
    answer = llm.get_model("local-chat").prompt(QUESTION, schema=Forecast, stream=False)
    return Forecast.model_validate_json(answer.text())


@step
def tools_are_offered() -> str:
    """It has no tool_choice, and this model calls none by itself: the offer must do no harm."""
    chain = llm.get_model("local-chat").chain(QUESTION, tools=[weather])
    text = chain.text()
    assert text
    return text


@step
def text_completion() -> str:
    text = llm.get_model("local-text").prompt("The server", max_tokens=8).text()
    assert text
    return text


@step
def responses() -> str:
    return llm.get_model("local-responses").prompt(QUESTION, stream=False).text()


@step
def responses_stream() -> str:
    text = "".join(llm.get_model("local-responses").prompt(QUESTION, stream=True))
    assert text
    return text
