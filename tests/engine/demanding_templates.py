"""
Small chat templates of our own; each makes demands as real ones do, and drops or refuses the rest.

The name says what kind of model has such a template.
"""
# ruff: noqa: E501  # templates are read better in whole lines

from __future__ import annotations

# No system turn, users and assistants strictly in turns, no tools: as gemma-2.
STRICT = """{{ bos_token }}
{%- for message in messages -%}
{%- if message.role not in ["user", "assistant"] -%}{{ raise_exception("no " + message.role) }}{%- endif -%}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) -%}{{ raise_exception("must alternate") }}{%- endif -%}
{{- "<" + message.role + ">" + message.content | trim + "\n" -}}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# The system's text stands in the last turn, if that is the user's; ids of nine; text beside calls is dropped;
# no empty answers; users and assistants in turns, calls and results not counted: as Mistral's.
NINE = """{{ bos_token }}
{%- if messages[0].role == "system" -%}{%- set system = messages[0].content -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{%- set ns = namespace(index=0) -%}
{%- for message in rest -%}
{%- if not (message.role == "tool" or message.tool_calls) -%}
{%- if (message.role == "user") != (ns.index % 2 == 0) -%}{{ raise_exception("must alternate") }}{%- endif -%}
{%- set ns.index = ns.index + 1 -%}{%- endif -%}
{%- if message.role == "user" -%}
{%- if tools and loop.last -%}[TOOLS]{{ tools | tojson }}{%- endif -%}
[INST]{% if loop.last and system is defined %}{{ system + "\n\n" }}{% endif %}{{ message.content }}[/INST]
{%- elif message.tool_calls -%}[CALLS]
{%- for call in message.tool_calls -%}
{%- if call.id | length != 9 -%}{{ raise_exception("ids have nine letters") }}{%- endif -%}
{{- call.function | tojson + call.id -}}
{%- endfor -%}
{%- elif message.role == "assistant" -%}
{%- if message.content == "" -%}{{ raise_exception("says nothing") }}{%- endif -%}
{{- message.content + "</s>" -}}
{%- elif message.role == "tool" -%}
{%- if message.tool_call_id | length != 9 -%}{{ raise_exception("ids have nine letters") }}{%- endif -%}
[RESULT]{{ message.content + message.tool_call_id }}[/RESULT]
{%- else -%}{{ raise_exception("no " + message.role) }}{%- endif -%}
{%- endfor -%}"""

# One call at a time, its text dropped, arguments as an object: as Llama 3.
SINGLE = """{{ bos_token }}
{%- if tools %}<system>{{ tools | tojson }}{% endif -%}
{%- for message in messages -%}
{%- if "tool_calls" in message -%}
{%- if message.tool_calls | length != 1 -%}{{ raise_exception("one call at a time") }}{%- endif -%}
<assistant>{"name": "{{ message.tool_calls[0].function.name }}", "parameters": {{ message.tool_calls[0].function.arguments | tojson }}}
{%- elif message.role == "tool" -%}<ipython>{{ message.content | tojson }}
{%- else -%}<{{ message.role }}>{{ message.content | trim }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Only the first system turn, only the first call of a turn, results only behind a call, thoughts as `thinking`, never
# beside text, and neither of them once an answer has come: as gpt-oss.
CHANNELS = """{%- if messages[0].role == "system" -%}<developer>{{ messages[0].content }}{%- endif -%}
{%- if tools -%}{{ tools | tojson }}{%- endif -%}
{%- set last = namespace(name=none, answer=-1) -%}
{%- for message in messages -%}
{%- if message.role == "assistant" and "tool_calls" not in message -%}{%- set last.answer = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == "user" -%}<user>{{ message.content }}{%- set last.name = none -%}
{%- elif message.role == "assistant" and "tool_calls" in message -%}
{%- if message.content and message.thinking -%}{{ raise_exception("not both") }}{%- endif -%}
{%- if loop.index0 > last.answer -%}<analysis>{{ message.content or message.thinking }}{%- endif -%}
{%- set call = message.tool_calls[0].function -%}
<to>{{ call.name + (call.arguments | tojson) }}{%- set last.name = call.name -%}
{%- elif message.role == "assistant" -%}<final>{{ message.content }}
{%- elif message.role == "tool" -%}
{%- if last.name is none -%}{{ raise_exception("a result without a call") }}{%- endif -%}
<from>{{ last.name + (message.content | tojson) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Contents are concatenated, thoughts cut out of them and shown behind the last question, and begun by the prompt:
# as Qwen3.
THINKING = """{%- set ns = namespace(last=0) -%}
{%- for message in messages -%}{%- if message.role == "user" -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if tools %}<system>{{ tools | tojson }} Think inside of <think> first.{% endif -%}
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{%- set content = message.content -%}
{%- if "</think>" in content -%}{%- set content = content.split("</think>")[-1] -%}{%- endif -%}
{{- "<assistant>" -}}
{%- if message.reasoning_content and loop.index0 > ns.last -%}{{ "<think>" + message.reasoning_content + "</think>" }}{%- endif -%}
{{- content -}}
{%- for call in message.tool_calls or [] -%}
{{- '<call>{"name": "' + call.function.name + '", "arguments": ' -}}
{%- if call.function.arguments is string -%}{{ call.function.arguments }}{%- else -%}{{ call.function.arguments | tojson }}{%- endif -%}
{{- "}" -}}
{%- endfor -%}
{%- else -%}{{ "<" + message.role + ">" + message.content }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<assistant>{%- if enable_thinking -%}<think>{%- endif -%}{%- endif -%}"""

# Calls only beside null, arguments as text: as DeepSeek V3.
NULLS = """{{ bos_token }}{{ tools | tojson if tools else "" }}
{%- for message in messages -%}
{%- if message.role == "assistant" and message.content is none -%}
{%- for call in message.tool_calls -%}{{ "<call>" + call.function.name + "\n" + call.function.arguments }}{%- endfor -%}
{%- else -%}{{ "<" + message.role + ">" + message.content }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Tools in the system message, calls dropped: as Phi-4-mini.
IN_SYSTEM = """{%- for message in messages -%}
{%- if message.role == "system" and message.tools is defined -%}
{{- "<system>" + message.content + "<tools>" + message.tools -}}
{%- else -%}{{ "<" + message.role + ">" + message.content }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Users and assistants, and nothing else, without a word: as Phi-3.
SILENT = """{%- for message in messages -%}
{%- if message.role in ["user", "assistant"] -%}{{ "<" + message.role + ">" + message.content }}{%- endif -%}
{%- endfor -%}<assistant>"""

# The system first or not at all, and at least one question: as Qwen3.5. Arguments are walked through.
FIRST = """{%- set found = namespace(question=false) -%}
{{- tools | tojson if tools else "" -}}
{%- for message in messages -%}
{%- if message.role == "system" and not loop.first -%}{{ raise_exception("the system comes first") }}{%- endif -%}
{%- if message.role == "user" -%}{%- set found.question = true -%}{%- endif -%}
{{- "<" + message.role + ">" + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- "<function=" + call.function.name + ">" -}}
{%- for key, value in call.function.arguments | items -%}{{ "<" + key + ">" + value | string }}{%- endfor -%}
{%- endfor -%}
{%- endfor -%}
{%- if not found.question -%}{{ raise_exception("no question") }}{%- endif -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Tools as a list, if it is an empty one, and each parameter described: as Hermes's and Command-R's for tools.
LISTED = """{%- for tool in tools -%}{{ tool.function.name }}
{%- for name, parameter in tool.function.parameters.properties.items() -%}
{{- name + ": " + parameter.type + " " + parameter.description -}}
{%- endfor -%}{%- endfor -%}
{%- for message in messages -%}
{{- "<" + message.role + ">" + message.content -}}
{%- for call in message.tool_calls or [] -%}{{ call.function | tojson }}{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif -%}"""

# Two by name: the plain one knows no tools, as Command-R's and Hermes's.
NAMED = {"default": STRICT, "tool_use": SINGLE}

# Thoughts are blocks of the content, before the text; users and assistants in turns: as Ministral's.
BLOCKS = """{{ bos_token }}
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for block in message.content -%}
{%- if block.type == "text" -%}{{ block.text }}
{%- elif block.type == "thinking" -%}[THINK]{{ block.thinking }}[/THINK]
{%- else -%}{{ raise_exception("no " + block.type) }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}[CALL]{{ call.function | tojson }}{%- endfor -%}</s>
{%- elif message.role == "tool" -%}[RESULT]{{ message.content }}[/RESULT]
{%- else -%}[{{ message.role }}]{{ message.content }}[/{{ message.role }}]{%- endif -%}
{%- endfor -%}"""

TEMPLATES: dict[str, str | dict[str, str]] = {
    "strict": STRICT,
    "nine": NINE,
    "single": SINGLE,
    "channels": CHANNELS,
    "thinking": THINKING,
    "nulls": NULLS,
    "in_system": IN_SYSTEM,
    "silent": SILENT,
    "first": FIRST,
    "listed": LISTED,
    "named": NAMED,
    "blocks": BLOCKS,
}
