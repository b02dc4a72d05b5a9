"""What MSG asks, in the words of Anthropic's clients."""

from collections.abc import Sequence

from conformance.answers import GREETING, LONG_TASK, UNKNOWN_MODEL, Question
from conformance.questions.chat import BOUND, N_SHORT, N_WHOLE, Fields, user
from conformance.questions.tools import LAMP, PARAMETERS

MESSAGES = "/v1/messages"
COUNTING = f"{MESSAGES}/count_tokens"
VERSION = ("anthropic-version", "2023-06-01")
N_TOKENS = 32
HOW: dict[str, Fields] = {"whole": {}, "streamed": {"stream": True}}


def asked(fields: Fields, capability: str = "messages", path: str = MESSAGES) -> Question:
    """Return a request with just these fields."""
    return Question(path, fields, capability, (VERSION,))


def message(fields: Fields, capability: str = "messages") -> Question:
    """Return a request for a message; *fields* are added to a short greeting at temperature 0."""
    usual: Fields = {"messages": user(GREETING), "max_tokens": N_SHORT, "temperature": 0}
    return asked({**usual, **fields}, capability)


def block(text: str) -> Fields:
    """Return a block of text."""
    return {"type": "text", "text": text}


SAID = {how: message(fields) for how, fields in HOW.items()}
LONG: Fields = {"messages": user(LONG_TASK)}
UNSTOPPED = message({**LONG, "max_tokens": N_TOKENS})
CUT = {how: message({**LONG, "max_tokens": BOUND, **fields}) for how, fields in HOW.items()}
CONVERSATIONS: dict[str, Fields] = {
    "system": {"system": "Be brief."},
    "system-blocks": {"system": [block("Be brief.")]},
    "blocks": {"messages": user([block("Hel"), block("lo")])},
    "turns": {
        "messages": [
            *user(GREETING),
            {"role": "assistant", "content": [block("Yes?")]},
            *user(GREETING),
        ]
    },
}
CONVERSED = {name: message(fields) for name, fields in CONVERSATIONS.items()}

TOOLS = [
    {"name": name, "description": name, "input_schema": schema}
    for name, schema in PARAMETERS.items()
]
FORCED: Fields = {"tools": TOOLS, "tool_choice": {"type": "any"}, "max_tokens": N_WHOLE}
NAMED: Fields = {**FORCED, "tool_choice": {"type": "tool", "name": LAMP}}


def calling(fields: Fields) -> Question:
    """Return a request that must be answered by using a tool."""
    return message(fields, "messages, tools")


CALLED = {"any": calling(FORCED), "named": calling(NAMED)}
STREAMED_CALL = calling({**NAMED, "stream": True})


def given_back(blocks: Sequence[Fields], content: object) -> Question:
    """Return the request that tells the model what its uses of tools gave."""
    results = [
        {"type": "tool_result", "tool_use_id": each["id"], "content": content} for each in blocks
    ]
    turns = [*user(GREETING), {"role": "assistant", "content": blocks}, *user(results)]
    return calling({"tools": TOOLS, "messages": turns})


def gone_on(content: object) -> Question:
    """Return the request that goes on behind a message, with its *content* as it came."""
    turns = [*user(GREETING), {"role": "assistant", "content": content}, *user(GREETING)]
    return message({"messages": turns})


WRONG = {
    "no-max_tokens": asked({"messages": user(GREETING)}),
    "no-messages": asked({"max_tokens": N_SHORT}),
    "messages-empty": message({"messages": []}),
    "role-unknown": message({"messages": [{"role": "wizard", "content": GREETING}]}),
    "temperature-text": message({"temperature": "hot"}),
    "streamed": message({"temperature": "hot", "stream": True}),
    "unknown-model": message({"model": UNKNOWN_MODEL}),
}

LENGTHS: dict[str, Fields] = {
    "short": {"messages": user(GREETING)},
    "long": {"messages": user(LONG_TASK), "system": "Be brief."},
}
COUNTED = {name: asked(fields, path=COUNTING) for name, fields in LENGTHS.items()}
USED = {name: message({"max_tokens": BOUND, **fields}) for name, fields in LENGTHS.items()}
