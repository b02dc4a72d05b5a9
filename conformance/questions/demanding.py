"""What changes an answer, asked of any model that can chat, whatever its tags promise."""

from conformance.questions.chat import BOUND, N_WHOLE, chat, user
from conformance.questions.images import ASKING, PICTURE, picture
from conformance.questions.structured import COLOUR, json_schema
from conformance.questions.tools import TOOLS

DEMANDING = {
    "logprobs": chat({"logprobs": True}),
    "tools": chat({"tools": TOOLS, "tool_choice": "required", "max_tokens": N_WHOLE}),
    "json_schema": chat({"max_tokens": N_WHOLE, **json_schema(COLOUR)}),
    "audio": chat({"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
    "picture": chat({"messages": user([ASKING, picture(PICTURE)]), "max_tokens": BOUND}),
}
UNPICTURED = chat({"messages": user([ASKING]), "max_tokens": BOUND})
