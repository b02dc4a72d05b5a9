"""
What is known of each notation of calls and thoughts, as a table: `python -m tests.models.notations`.

For each family answers are written as its models write them, cut into tokens anyhow, and read. Where a chat
template of the family can be had, out of a package that carries it, the calls that it writes into a history
are read, too: what the template takes in is what the model puts out.

    pip download --no-deps --no-binary :all: llama-cpp-python
    pip download --no-deps mlx-openai-server
    python -m tests.models.notations llama_cpp_python-*.tar.gz mlx_openai_server-*.whl > notations.md

No template is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from service.engine.constrain.compile import GrammarCompiler
from service.engine.constrain.token_mask import allowed_tokens
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.answer import Answer, AnswerParser
from service.engine.text.call_format import call_notation
from service.engine.text.notations import CALLS as NOTATIONS
from service.protocol import Chat, Constraint, Job, Tool, ToolCall, Turn
from tests.models.templates import templates

Call = tuple[str, dict[str, Any]]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12, "description": "Where."},
        "days": {"type": "integer", "minimum": 1, "maximum": 9, "description": "How many."},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK = {
    "type": "object",
    "properties": {"zone": {"type": "string", "maxLength": 5, "description": "In which zone."}},
}
TOOLS = (
    Tool("get_weather", "Tells the weather.", json.dumps(WEATHER)),
    Tool("clock", "Tells the time.", json.dumps(CLOCK)),
)
CALLS: list[Call] = [
    ("get_weather", {"city": "Zürich 👩‍🚀", "days": 3}),
    ("clock", {"zone": 'it\'s, {so} ["to"] say: a=b'}),
    ("get_weather", {"city": "Rome", "days": 7}),
    ("clock", {"zone": "UTC"}),
]
THOUGHTS = "Hm, the user wants <b>weather</b>.\nSo: a call?"
TEXT = "Let me see: 1 < 2, [a] {b}."


@dataclass(frozen=True)
class Sample:
    """
    How a family writes.

    Attributes:
        family: its models.
        notation: the name of its notation of calls.
        write: makes the text of calls.
        special: its special tokens, as far as they matter.
        signs: what its chat template holds.
        think: makes the text of thoughts; None: it has none.
        say: makes the text of an answer before calls; None: it says nothing beside them.
    """

    family: str
    notation: str
    write: Callable[[Sequence[Call]], str]
    special: tuple[str, ...] = ()
    signs: str = ""
    think: Callable[[str], str] | None = None
    say: Callable[[str], str] | None = lambda text: text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _listed(calls: Sequence[Call], arguments: str = "arguments") -> str:
    return _json([{"name": name, arguments: given} for name, given in calls])


def _each(form: Callable[[int, str, dict[str, Any]], str], between: str = "") -> Any:
    """Return what writes calls one by one."""
    return lambda calls: between.join(form(i, *call) for i, call in enumerate(calls))


def _python(name: str, given: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_json(value)}' for key, value in given.items())})"


def _xml(name: str, given: dict[str, Any]) -> str:
    parameters = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in given.items())
    return f"<function={name}>\n{parameters}</function>"


def _gemma(given: dict[str, Any], quote: str) -> str:
    values = (
        f"{key}:{quote}{value}{quote}" if isinstance(value, str) else f"{key}:{value}"
        for key, value in given.items()
    )
    return "{" + ",".join(values) + "}"


def _tags(name: str, given: dict[str, Any], prefix: str = "", line: str = "\n") -> str:
    pairs = "".join(
        f"<{prefix}arg_key>{k}</{prefix}arg_key>{line}<{prefix}arg_value>{v}</{prefix}arg_value>{line}"
        for k, v in given.items()
    )
    return f"<{prefix}tool_call>{name}{line}{pairs}</{prefix}tool_call>"


def _invoke(name: str, given: dict[str, Any], mark: str = "") -> str:
    kind = ' string="{}"' if mark else ""
    parameters = "".join(
        f'<{mark}parameter name="{key}"{kind.format(str(isinstance(value, str)).lower())}>{value}'
        f"</{mark}parameter>\n"
        for key, value in given.items()
    )
    return f'<{mark}invoke name="{name}">\n{parameters}</{mark}invoke>\n'


def _xtml(name: str, given: dict[str, Any]) -> str:
    arguments = "".join(
        f'<|open|>argument key="{key}" type="{"string" if isinstance(value, str) else "number"}"<|sep|>'
        f"{value}<|close|>argument<|sep|>"
        for key, value in given.items()
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{arguments}<|close|>call<|sep|>'


def _tagged(start: str, end: str) -> Callable[[str], str]:
    return lambda text: f"{start}{text}{end}"


_THINK = _tagged("<think>\n", "\n</think>\n\n")
_HERMES = _each(
    lambda _, name, given: (
        f"<tool_call>\n{_json({'name': name, 'arguments': given})}\n</tool_call>"
    ),
    "\n",
)
_M3 = "]<]minimax[>["
_QUOTE = '<|"|>'
_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK = (*_SECTION, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>")
_KIMI = (
    "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
)  # fmt: skip
_HARMONY = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
)

SAMPLES = [
    Sample("Qwen 2.5, Qwen 3, Hermes 2 and 3", "hermes", _HERMES, signs="tools <tool_call> <think></think>",
           think=_THINK),
    Sample("Qwen 3 Coder, Nemotron 3", "qwen3_coder",
           _each(lambda _, *call: f"<tool_call>\n{_xml(*call)}\n</tool_call>", "\n"),
           signs="<tool_call>\n<function="),
    Sample("Llama 3.1 to 3.3", "llama",
           _each(lambda _, name, given: _json({"name": name, "parameters": given}), "; "),
           ("<|python_tag|>", "<|start_header_id|>"), "tools <|python_tag|> <|start_header_id|>", say=None),
    Sample("Llama 3 after its tag", "llama",
           lambda calls: "<|python_tag|>" + "; ".join(_json({"name": n, "parameters": a}) for n, a in calls),
           ("<|python_tag|>", "<|start_header_id|>"), "tools <|python_tag|> <|start_header_id|>"),
    Sample("Llama 3.2 and 4 in Python", "llama", lambda calls: f"[{', '.join(_python(*c) for c in calls)}]",
           ("<|python_start|>", "<|python_end|>", "<|header_start|>"),
           "tools <|python_start|> <|header_start|>", say=None),
    Sample("Llama 4 between its marks", "llama",
           lambda calls: f"<|python_start|>[{', '.join(_python(*c) for c in calls)}]<|python_end|>",
           ("<|python_start|>", "<|python_end|>", "<|header_start|>"),
           "tools <|python_start|> <|header_start|>"),
    Sample("gpt-oss", "harmony",
           _each(lambda _, name, given: f"<|channel|>commentary to=functions.{name} "
                 f"<|constrain|>json<|message|>{_json(given)}<|call|>", "<|start|>assistant"),
           _HARMONY, "<|start|><|channel|><|message|>",
           think=_tagged("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
           say=_tagged("<|channel|>final<|message|>", "<|end|><|start|>assistant")),
    Sample("gpt-oss, the recipient first", "harmony",
           _each(lambda _, name, given: f" to=functions.{name}<|channel|>commentary json<|message|>"
                 f"{_json(given)}<|call|>", "<|start|>assistant"),
           _HARMONY, "<|start|><|channel|><|message|>",
           think=_tagged("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
           say=_tagged("<|channel|>commentary<|message|>", "<|end|><|start|>assistant")),
    Sample("Command R7B, Command A", "cohere",
           lambda calls: "<|START_ACTION|>" + _json(
               [{"tool_call_id": str(i), "tool_name": n, "parameters": a} for i, (n, a) in enumerate(calls)]
           ) + "<|END_ACTION|>",
           ("<|START_ACTION|>", "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>",
            "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
           think=_tagged("<|START_THINKING|>", "<|END_THINKING|>"),
           say=_tagged("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    Sample("Command R, Command R+", "command_r",
           lambda calls: "Action: ```json\n" + json.dumps(
               [{"tool_name": n, "parameters": a} for n, a in calls], ensure_ascii=False, indent=4) + "```",
           ("<|CHATBOT_TOKEN|>",), "<|CHATBOT_TOKEN|> Action: tool_name"),
    Sample("Granite 3", "granite", lambda calls: f"<|tool_call|>{_listed(calls)}", ("<|tool_call|>",),
           "<|tool_call|> <think> <response>", think=_tagged("<think>", "</think>"),
           say=_tagged("<response>", "</response>")),
    Sample("Phi 4 mini", "phi4_mini", lambda calls: f"<|tool_call|>{_listed(calls)}<|/tool_call|>",
           ("<|tool_call|>", "<|/tool_call|>")),
    Sample("Seed-OSS", "seed_oss",
           _each(lambda _, *call: f"<seed:tool_call>\n{_xml(*call)}\n</seed:tool_call>", "\n"),
           ("<seed:tool_call>", "</seed:tool_call>", "<seed:think>", "</seed:think>"),
           think=_tagged("<seed:think>", "</seed:think>")),
    Sample("Nemotron Nano 2 and Super 1.5", "nemotron",
           lambda calls: f"<TOOLCALL>{_listed(calls)}</TOOLCALL>",
           signs="<TOOLCALL></TOOLCALL> <think></think>", think=_THINK),
    Sample("Jamba, Apriel", "jamba", lambda calls: f"<tool_calls>{_listed(calls)}</tool_calls>",
           signs="<tool_calls></tool_calls>"),
    Sample("functionary 3.2", "functionary_v32",
           _each(lambda i, name, given: f"{'>>>' if i else ''}{name}\n{_json(given)}"), signs=">>>all",
           say=_tagged("all\n", ">>>")),
    Sample("functionary 3.1", "functionary_v31",
           _each(lambda _, name, given: f"<function={name}>{_json(given)}</function>"),
           signs="<function=example_function_name></function>"),
    Sample("DeepSeek V3, R1 and its distills", "deepseek_v3",
           lambda calls: _SECTION[0] + "\n".join(
               f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(given)}\n```<｜tool▁call▁end｜>"
               for name, given in calls) + _SECTION[1],
           _DEEPSEEK, "<｜tool▁calls▁begin｜>```json<think></think>", think=_THINK),
    Sample("DeepSeek V3.1", "deepseek_v31",
           lambda calls: _SECTION[0] + "".join(
               f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_json(given)}<｜tool▁call▁end｜>"
               for name, given in calls) + _SECTION[1],
           _DEEPSEEK, "<｜tool▁calls▁begin｜><think></think>", think=_THINK),
    Sample("DeepSeek V3.2", "deepseek_v32",
           lambda calls: "<｜DSML｜function_calls>\n" + "".join(
               _invoke(*call, mark="｜DSML｜") for call in calls) + "</｜DSML｜function_calls>",
           ("｜DSML｜",), "｜DSML｜<think></think>", think=_THINK),
    Sample("DeepSeek V4", "deepseek_v4",
           lambda calls: "<｜DSML｜tool_calls>\n" + "".join(
               _invoke(*call, mark="｜DSML｜") for call in calls) + "</｜DSML｜tool_calls>",
           ("｜DSML｜",), "<｜DSML｜tool_calls><think></think>", think=_THINK),
    Sample("Apertus", "apertus",
           lambda calls: f"<|tools_prefix|>{_json([{n: a} for n, a in calls])}<|tools_suffix|>",
           ("<|tools_prefix|>", "<|tools_suffix|>")),
    Sample("GigaChat 3", "gigachat_v3",
           _each(lambda _, name, given: "<|message_sep|>\n\nfunction call<|role_sep|>\n"
                 f"{_json({'name': name, 'arguments': given})}<|message_sep|>"),
           ("<|role_sep|>", "<|message_sep|>"), "<|role_sep|> 'function call'"),
    Sample("Hy3", "hy3",
           lambda calls: "<tool_calls:opensource>\n" + "".join(
               f"<tool_call:opensource>{name}<tool_sep:opensource>\n" + "".join(
                   f"<arg_key:opensource>{k}</arg_key:opensource>\n"
                   f"<arg_value:opensource>{v}</arg_value:opensource>\n" for k, v in given.items())
               + "</tool_call:opensource>\n" for name, given in calls) + "</tool_calls:opensource>",
           ("<tool_calls:opensource>", "</tool_calls:opensource>", "<think:opensource>",
            "</think:opensource>"),
           think=_tagged("<think:opensource>", "</think:opensource>")),
    Sample("Solar Open", "solar_open",
           lambda calls: "<|tool_calls|>" + "".join(
               f"<|tool_call:begin|>abcdefgh{i:02}<|tool_call:name|>{name}<|tool_call:args|>{_json(given)}"
               "<|tool_call:end|>" for i, (name, given) in enumerate(calls)) + "<|calls|>",
           ("<|begin|>", "<|end|>", "<|think|>", "<|content|>", "<|tool_calls|>", "<|calls|>",
            "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>"),
           think=_tagged("<|think|>", "<|end|><|begin|>assistant"),
           say=_tagged("<|content|>", "<|end|><|begin|>assistant")),
    Sample("GigaChat 3.1", "gigachat",
           _each(lambda _, name, given: f"<|function_call|>{_json({'name': name, 'arguments': given})}"),
           ("<|function_call|>", "<|role_sep|>", "<|message_sep|>")),
    Sample("Kimi K2", "kimi_k2",
           lambda calls: _KIMI[0] + "".join(
               f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{_json(given)}<|tool_call_end|>"
               for i, (name, given) in enumerate(calls)) + _KIMI[1],
           _KIMI, "<think></think>", think=_THINK),
    Sample("Kimi K3", "kimi_k3",
           lambda calls: "<|open|>tools<|sep|>" + "".join(_xtml(*c) for c in calls) + "<|close|>tools<|sep|>",
           ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
           think=_tagged("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
           say=_tagged("<|open|>response<|sep|>", "<|close|>response<|sep|>")),
    Sample("GLM 4.5, 4.6", "glm47", _each(lambda _, *call: _tags(*call), "\n"),
           signs="<tool_call><arg_key><think></think>", think=_THINK),
    Sample("GLM 4.7, Laguna", "glm47", _each(lambda _, name, given: _tags(name, given, line="")),
           signs="<tool_call><arg_key><think></think>", think=_THINK),
    Sample("LongCat", "longcat", _each(lambda _, name, given: _tags(name, given, prefix="longcat_")),
           signs="<longcat_tool_call> <longcat_think></longcat_think>",
           think=_tagged("<longcat_think>", "</longcat_think>")),
    Sample("LFM 2", "pythonic",
           lambda calls: f"<|tool_call_start|>[{', '.join(_python(*c) for c in calls)}]<|tool_call_end|>",
           ("<|tool_call_start|>", "<|tool_call_end|>")),
    Sample("MiniMax M2", "minimax_m2",
           lambda calls: "<minimax:tool_call>\n" + "".join(
               _invoke(*c) for c in calls) + "</minimax:tool_call>",
           signs="<minimax:tool_call><think></think>", think=_THINK),
    Sample("MiniMax M3", "minimax_m3",
           lambda calls: f"{_M3}<tool_call>\n" + "".join(
               f'{_M3}<invoke name="{name}">' + "".join(
                   f"{_M3}<{k}>{v}{_M3}</{k}>" for k, v in given.items()) + f"{_M3}</invoke>\n"
               for name, given in calls) + f"{_M3}</tool_call>",
           ("]<]minimax[>[",), "]<]minimax[>[ <tool_call> <mm:think></mm:think>",
           think=_tagged("<mm:think>", "</mm:think>")),
    Sample("MiniCPM 5", "minicpm5",
           _each(lambda _, name, given: f'<function name="{name}">' + "".join(
               f'<param name="{k}">{v}</param>' for k, v in given.items()) + "</function>"),
           signs='<function name="<param name="'),
    Sample("Mistral Small 3.2, Devstral, Magistral", "mistral",
           _each(lambda _, name, given: f"[TOOL_CALLS]{name}[ARGS]{_json(given)}"),
           ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"), "[TOOL_CALLS][ARGS]",
           think=_tagged("[THINK]", "[/THINK]")),
    Sample("Mistral with ids of its own", "mistral",
           _each(lambda i, name, given: f"[TOOL_CALLS]{name}[CALL_ID]abcdefgh{i}[ARGS]{_json(given)}"),
           ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), "[TOOL_CALLS][ARGS]"),
    Sample("Mistral 7B 0.3, Nemo, Small 3.1", "mistral_v3", lambda calls: f"[TOOL_CALLS] {_listed(calls)}",
           ("[TOOL_CALLS]",), "[TOOL_CALLS]"),
    Sample("Gemma 4", "gemma4",
           _each(lambda _, name, given: f"<|tool_call>call:{name}{_gemma(given, _QUOTE)}<tool_call|>"),
           ("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
           think=_tagged("<|channel>thought\n", "<channel|>")),
    Sample("FunctionGemma", "function_gemma",
           _each(lambda _, name, given: f"<start_function_call>call:{name}{_gemma(given, '<escape>')}"
                 "<end_function_call>"),
           ("<start_function_call>", "<end_function_call>", "<escape>"), "<start_function_call>"),
    Sample("Muse Spark", "muse_spark",
           lambda calls: "<atem:function_calls>" + "".join(
               f'<atem:invoke name="{name}">' + "".join(
                   f'<atem:parameter name="{k}">{_json(v)}</atem:parameter>' for k, v in given.items())
               + "</atem:invoke>" for name, given in calls) + "</atem:function_calls>",
           signs="<atem:function_calls>"),
]  # fmt: skip


class Pieces(StreamingDetokenizer):  # type: ignore[misc]  # mlx-lm ships no types
    """Makes text of tokens that are any pieces of it, as `texts` has them by number."""

    def __init__(self, tokenizer: Any) -> None:
        self.texts: dict[int, str] = {i: text for text, i in tokenizer.get_vocab().items()}
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.offset, self.text = 0, ""
        self.tokens: list[int] = []

    def add_token(self, token: int) -> None:
        """Take the next token."""
        self.text += self.texts[token]

    def finalize(self) -> None:
        """Nothing is held back."""


def tokenizer_of(
    special: Sequence[str], template: str, detokenizer: Any = BPEStreamingDetokenizer
) -> TokenizerWrapper:
    """Return a tokenizer of bytes with these *special* tokens and this chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<bos>", "<eos>", *special)]
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<bos>", eos_token="<eos>")
    wrapped.chat_template = template
    return TokenizerWrapper(wrapped, detokenizer)


def job(tools: tuple[Tool, ...] = TOOLS, **fields: Any) -> Job:
    """Return a job of a chat in which *tools* are offered, and the model is told not to think."""
    return Job(prompt=Chat((Turn("user", "Weather?"),), tools, thinking=False), **fields)


@dataclass
class Heard:
    """What an answer said."""

    text: str
    reasoning: str
    calls: list[ToolCall]
    finish_reason: str


class Listener:
    """
    Reads answers of one family.

    Args:
        sample: the family.
    """

    def __init__(self, sample: Sample) -> None:
        self.tokenizer = tokenizer_of(sample.special, sample.signs, Pieces)
        self._parser = AnswerParser(self.tokenizer)
        self._pieces: dict[str, int] = {}
        special = sorted(sample.special, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, special)) or '(?!)'})")
        self._texts: dict[int, str] = self.tokenizer._detokenizer.texts

    def tokens(self, text: str, chance: random.Random | None = None) -> list[int]:
        """Return *text* as tokens: letters, or pieces that are cut by *chance*; special tokens are whole."""
        found = []
        for i, part in enumerate(self._special.split(text)):
            if i % 2:
                found.append(self.tokenizer.get_vocab()[part])
                continue
            while part:
                n = chance.randint(1, 7) if chance else 1
                found.append(self._token(part[:n]))
                part = part[n:]
        return found

    def _token(self, piece: str) -> int:
        number = self._pieces.setdefault(piece, 10_000 + len(self._pieces))
        self._texts[number] = piece
        return number

    def hear(self, tokens: Sequence[int], ended: Any = "stop") -> Heard:
        """Return what an answer of these *tokens* says."""
        return hear(self._parser.answer(job()), tokens, ended)


def hear(answer: Answer, tokens: Sequence[int], ended: Any = "stop") -> Heard:
    """Return what *answer* says at these *tokens*."""
    said = [answer.add(token) for token in tokens]
    said.append(answer.finish(ended))
    return Heard(
        "".join(each.text for each in said),
        "".join(each.reasoning for each in said),
        [call for each in said for call in each.tool_calls],
        answer.reason(ended),
    )


def calls_of(heard: Heard) -> list[Call]:
    """Return the whole calls."""
    return [(call.name, json.loads(call.arguments)) for call in heard.calls if not call.is_cut]


def leak(sample: Sample, listener: Listener, chance: random.Random) -> str:
    """Write an answer by *chance*, cut it, and tell what came out that shouldn't; empty: nothing."""
    thoughts = THOUGHTS if sample.think and chance.random() < 0.5 else ""
    text = TEXT if sample.say and chance.random() < 0.5 else ""
    calls = [chance.choice(CALLS) for _ in range(chance.randint(1, 3))]
    whole = written(sample, thoughts, text, calls)
    tokens = listener.tokens(whole, chance)
    n = chance.randint(1, len(tokens))
    ended = "length" if n < len(tokens) else "stop"
    heard = listener.hear(tokens[:n], ended)
    found = calls_of(heard)
    wrong = [
        what
        for what, is_wrong in {
            "text": not _is_beginning(heard.text, text),
            "thoughts": not _is_beginning(heard.reasoning, thoughts),
            "calls": found != calls[: len(found)],
            "a cut call": not all(
                _is_cut_of(call, calls[len(found)]) for call in heard.calls if call.is_cut
            ),
            "the end": ended == "stop"
            and (heard.text.strip(), heard.reasoning.strip(), found) != (text, thoughts, calls),
        }.items()
        if is_wrong
    ]
    return f"{', '.join(wrong)}: {whole!r} cut at {n} gave {heard}" if wrong else ""


def written(sample: Sample, thoughts: str, text: str, calls: Sequence[Call]) -> str:
    """Return an answer as *sample* writes it."""
    whole = sample.write(calls) if calls else ""
    if sample.say and text:
        whole = sample.say(text) + whole
    if sample.think and thoughts:
        whole = sample.think(thoughts) + whole
    return whole


def _is_beginning(found: str, whole: str) -> bool:
    """Whether *found* is the beginning of *whole*, but for a letter that could yet have become a mark."""
    return whole.startswith((found.strip(), found[:-1].strip()))


def _is_cut_of(cut: ToolCall, whole: Call) -> bool:
    name, arguments = whole
    begun, text = (re.sub(r"\s", "", each) for each in (cut.arguments, _json(arguments)))
    return cut.name == name and text.startswith(begun)


def drawn(tokenizer: TokenizerWrapper, asked: Job, chance: random.Random) -> list[int]:
    """Return the tokens of an answer that is drawn within the grammar of what is *asked*."""
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    mask = GrammarCompiler(tokenizer, vocabulary).token_mask(asked, is_thinking=False)
    assert mask is not None
    tokens: list[int] = []
    (end,) = tokenizer.eos_token_ids
    for _ in range(5000):
        allowed = allowed_tokens([mask], vocabulary.n_logits)[0].nonzero()[0].tolist()
        token = end if end in allowed else chance.choice(allowed)
        if token == end:
            break
        mask.advance(token)
        tokens.append(token)
    return tokens


def is_forced_right(sample: Sample, chance: random.Random) -> bool:
    """Whether a demanded call comes, whatever is drawn, and with nothing beside it."""
    tokenizer = tokenizer_of(sample.special, sample.signs)
    asked = job(must_call=("get_weather",), parallel_tool_calls=False)
    heard = hear(AnswerParser(tokenizer).answer(asked), drawn(tokenizer, asked, chance))
    (call,) = calls_of(heard) or [("", {})]
    return (call[0], set(call[1]), heard.text) == ("get_weather", {"city", "days"}, "")


def is_form_right(sample: Sample, chance: random.Random) -> bool:
    """Whether an answer that is held to a choice is of it, and is text."""
    tokenizer = tokenizer_of(sample.special, sample.signs)
    form = Constraint("choice", '["yes", "no"]', "response_format")
    asked = job((), constraint=form)
    heard = hear(AnswerParser(tokenizer).answer(asked), drawn(tokenizer, asked, chance))
    return heard.text in {"yes", "no"}


def findings(sample: Sample, n_cuts: int) -> dict[str, str]:
    """Return what holds for *sample*, by the columns of the table, but for templates."""
    chance = random.Random(sample.family)
    listener = Listener(sample)

    def said(thoughts: str, text: str, calls: Sequence[Call], pieces: Any = None) -> bool:
        tokens = listener.tokens(written(sample, thoughts, text, calls), pieces)
        heard = listener.hear(tokens)
        found = (heard.reasoning.strip(), heard.text.strip(), calls_of(heard))
        return found == (thoughts, text if sample.say else "", list(calls))

    n_leaks = sum(bool(leak(sample, listener, chance)) for _ in range(n_cuts))
    return {
        "notation": sample.notation,
        "one": _yes(said("", TEXT, CALLS[:1])),
        "streamed": _yes(all(said("", TEXT, CALLS[:2], chance) for _ in range(20))),
        "several": _yes(said("", "", CALLS)),
        "thoughts": _yes(said(THOUGHTS, TEXT, CALLS[:1])) if sample.think else "none",
        "forced": _yes(is_forced_right(sample, chance)),
        "form": _yes(is_form_right(sample, chance)),
        "leaks": f"{n_leaks} of {n_cuts:,}",
    }


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


ROUND: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abcdefghi",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Rome", "days": 7}},
            }
        ],
    },
]
# What looks like a special token in a template, and what ends a turn there.
SPECIAL = re.compile(r"""<\|[\w"/]+\|?>|<[\w/]+\|>|\[/?[A-Z_]+\]|<｜[\w▁]+｜>""")
_TURN_END = re.compile(
    r"<eos>|</s>|<\|(im_end|eot_id|eom_id|eot|end_of_text|END_OF_TURN_TOKEN|START_OF_TURN_TOKEN|end|call|user|observation)\|>|<turn\|>|"
    r"<｜end▁of▁sentence｜>|<seed:eos>|\[e~\[|<end_of_turn>|<SPECIAL_12>|<\|message_sep\|>|<\|tool_response>"
)


def found_in_template(template: str) -> tuple[str, str]:
    """Return the notation that a *template* shows, and what comes of a call that it writes."""
    marks = [mark for sample in SAMPLES for mark in sample.special if mark in template]
    tokenizer = tokenizer_of(list(dict.fromkeys(marks + SPECIAL.findall(template))), template)
    shown = call_notation(tokenizer)
    notation = next((name for name, each in NOTATIONS.items() if each is shown), "")
    found = ""
    for as_text in (False, True):
        turns = json.loads(json.dumps(ROUND))
        if as_text:
            function = turns[1]["tool_calls"][0]["function"]
            function["arguments"] = json.dumps(function["arguments"])
        try:
            text = _answer_in(tokenizer, turns)
        except Exception as error:  # whatever a template raises
            found = found or f"refused: {str(error)[:60]}"
            continue
        if "get_weather" not in text:
            return notation, "writes none"
        heard = hear(
            AnswerParser(tokenizer).answer(job()), tokenizer.encode(text, add_special_tokens=False)
        )
        if calls_of(heard) == [("get_weather", {"city": "Rome", "days": 7})]:
            return notation, "yes"
        found = f"**no**: `{text[:80]!r}`"
    return notation, found


def _answer_in(tokenizer: TokenizerWrapper, turns: list[dict[str, Any]]) -> str:
    """Return the text of the last of *turns*, as far as a model would write it."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters),
            },
        }
        for tool in TOOLS
    ]

    def rendered(n_turns: int, *, is_open: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                turns[:n_turns], tools=tools, tokenize=False, add_generation_prompt=is_open
            )
        )

    after, before = rendered(2, is_open=False), rendered(1, is_open=True)
    if not after.startswith(before):
        before = rendered(1, is_open=False)
    pairs = enumerate(zip(before, after, strict=False))
    n_alike = next((i for i, (one, other) in pairs if one != other), len(before))
    if n_alike < len(before):  # what follows may begin like a mark, which is wanted whole
        n_alike = max(after.rfind(end, 0, n_alike) + 1 for end in ">\n")
    text = after[n_alike:]
    begun = text[: text.find("get_weather")]
    return begun + _TURN_END.split(text[len(begun) :])[0]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(prog="python -m tests.models.notations")
    arguments.add_argument("--cuts", type=int, default=10_000, help="Answers to cut, per family.")
    arguments.add_argument("archives", type=Path, nargs="*", help="Packages with chat templates.")
    asked = arguments.parse_args()
    for line in table(asked.cuts, asked.archives):
        print(line, flush=True)


def table(n_cuts: int, archives: Sequence[Path]) -> Iterator[str]:
    """Yield the lines of the tables, each when it is known."""
    names = ("mlx-lm", "llguidance", "transformers")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    yield f"# Notations\n\nMade by `python -m tests.models.notations` with {packages}.\n"
    columns = [
        "family", "notation", "one call", "streamed", "several", "thoughts", "forced call",
        "held answer", "leaks in cuts",
    ]  # fmt: skip
    yield f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    for sample in SAMPLES:
        yield f"| {sample.family} | {' | '.join(findings(sample, n_cuts).values())} |"
    if not archives:
        return
    yield "\n## Chat templates\n"
    yield "The call that a template writes into a history, read as if it were an answer; templates of"
    yield ", ".join(f"`{each.name}`" for each in archives) + ".\n"
    yield "| template | notation | call read |\n|---|---|---|"
    for archive in archives:
        for name, template in templates(archive):
            yield f"| {name} | {' | '.join(found_in_template(template))} |"


if __name__ == "__main__":
    main()
