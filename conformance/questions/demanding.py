"""What changes an answer, asked of any model that can chat, whatever its tags promise."""

from conformance.questions.chat import BOUND, chat, user
from conformance.questions.images import ASKING, PICTURE, picture
from conformance.questions.structured import COLOUR, json_schema
from conformance.questions.tools import LAMP, PARAMETERS, TOOLS, WHOLE

FUNCTION = {"name": LAMP, "description": LAMP, "parameters": PARAMETERS[LAMP]}
DEMANDING = {
    "logprobs": chat({"logprobs": True}),
    "tools": chat({"tools": TOOLS, "tool_choice": "required", **WHOLE}),
    "json_schema": chat({**WHOLE, **json_schema(COLOUR)}),
    "functions": chat({"functions": [FUNCTION], "function_call": {"name": LAMP}, **WHOLE}),
    "logit_bias": chat({"logit_bias": {"100": 100}}),
    "web_search": chat({"web_search_options": {}}),
    "audio": chat({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
    "picture": chat({"messages": user([ASKING, picture(PICTURE)]), "max_tokens": BOUND}),
}
UNPICTURED = chat({"messages": user([ASKING]), "max_tokens": BOUND})

# What a refusal may name.
NAMES = {
    "logprobs": {"logprobs"},
    "tools": {"tools", "tool_choice"},
    "json_schema": {"response_format"},
    "functions": {"functions", "function_call"},
    "logit_bias": {"logit_bias"},
    "web_search": {"web_search_options"},
    "audio": {"audio", "modalities"},
    "picture": {"messages"},
}
