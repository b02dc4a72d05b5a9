"""What TOOLS asks. No argument can go on for ever, so that any model comes to an end of it."""

from conformance.answers import GREETING, Question
from conformance.questions.chat import BOUND, HOW, N_WHOLE, STREAMED, Fields, chat, user

N_CALL = 64  # room enough for a call that must not be made
WEATHER = "get_weather"
LAMP = "set_lamp"
PARAMETERS: dict[str, Fields] = {
    WEATHER: {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
            "days": {"type": "integer", "enum": [1, 3, 7]},
        },
        "required": ["unit", "days"],
        "additionalProperties": False,
    },
    LAMP: {
        "type": "object",
        "properties": {"is_on": {"type": "boolean"}},
        "required": ["is_on"],
        "additionalProperties": False,
    },
}


def tool(name: str, parameters: Fields) -> Fields:
    """Return a function that a model may call."""
    function = {"name": name, "description": name, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


TOOLS = [tool(name, parameters) for name, parameters in PARAMETERS.items()]


def calling(choice: object, fields: Fields | None = None) -> Question:
    """Return a chat with tools."""
    return chat({"tools": TOOLS, "tool_choice": choice, **(fields or {})}, "tools")


def the(name: str) -> Fields:
    """Return the choice of one function."""
    return {"type": "function", "function": {"name": name}}


WHOLE: Fields = {"max_tokens": N_WHOLE}
CALLED = {
    "required": calling("required", WHOLE),
    "named": calling(the(LAMP), WHOLE),
    "streamed": calling("required", {**WHOLE, **STREAMED}),
}
CALLED_ONCE = calling("required", {**WHOLE, "parallel_tool_calls": False})
CUT = {how: calling("required", {"max_tokens": BOUND, **fields}) for how, fields in HOW.items()}
UNCALLED = {how: calling("none", {"max_tokens": N_CALL, **fields}) for how, fields in HOW.items()}
WRONG_CALLS = {
    "unknown-function": calling(the("no_such_function")),
    "no-tools": chat({"tool_choice": "required"}, "tools"),
    "no-schema": calling("auto", {"tools": [tool(LAMP, {"type": "banana"})]}),
}


def given_back(message: Fields, call_id: object, content: object) -> Question:
    """Return the chat that tells the model what its call gave."""
    given = {"role": "tool", "tool_call_id": call_id, "content": content}
    return calling("none", {"messages": [*user(GREETING), message, given]})
