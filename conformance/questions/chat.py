"""
Chats, and what PARAM asks.

They are asked at temperature 0, and for few tokens unless an answer must come to its own end.
"""

from collections.abc import Mapping

from conformance.answers import GREETING, LONG_TASK, Question
from conformance.client import CHAT, chat_body

Fields = Mapping[str, object]

N_SHORT = 8
N_WHOLE = 256
BOUND = 3
N_CHOICES = 2
STREAMED: Fields = {"stream": True, "stream_options": {"include_usage": True}}
HOW: dict[str, Fields] = {"whole": {}, "streamed": STREAMED}


def chat(fields: Fields, capability: str = "") -> Question:
    """Return a chat; *fields* are added to a short greeting at temperature 0."""
    usual: Fields = {"temperature": 0, "max_tokens": N_SHORT}
    return Question(CHAT, chat_body(GREETING, **{**usual, **fields}), capability)


def user(content: object) -> list[Fields]:
    """Return the messages of a single turn."""
    return [{"role": "user", "content": content}]


LONG: Fields = {"messages": user(LONG_TASK), "temperature": 0}
BOUNDED = {
    "max_tokens": chat({**LONG, "max_tokens": BOUND}),
    "max_completion_tokens": Question(CHAT, {**LONG, "max_completion_tokens": BOUND}),
    "streamed": chat({**LONG, **STREAMED, "max_tokens": BOUND}),
}
# What no model is sure to answer in one way.
OPEN: Fields = {"messages": user("qx 7 vub, ool?"), "temperature": 2, "max_tokens": 16}
SAMPLED = chat({**OPEN, "seed": 7})
SEEDED = [chat({**OPEN, "seed": seed}) for seed in range(11, 17)]
BY_CHANCE = {"with-logprobs": chat({**OPEN, "logprobs": True}), "alone": chat(OPEN)}
LIKELIEST = chat({**OPEN, "top_p": 0.000001})
CHOSEN = {how: chat({**fields, "n": N_CHOICES}) for how, fields in HOW.items()}
SAME = {how: chat(fields) for how, fields in HOW.items()}

# The parameter that is wrong stands first.
WRONG_FIELDS: dict[str, Fields] = {
    "temperature-text": {"temperature": "hot"},
    "top_p-above-1": {"top_p": 2},
    "max_tokens-negative": {"max_tokens": -2},
    "n-zero": {"n": 0},
    "frequency_penalty-above-2": {"frequency_penalty": 3},
    "logit_bias-above-100": {"logit_bias": {"7": 101}},
    "logit_bias-no-token": {"logit_bias": {"seven": 1}},
    "stop-number": {"stop": 7},
    "stream-text": {"stream": "yes"},
    "messages-empty": {"messages": []},
    "role-unknown": {"messages": [{"role": "wizard", "content": GREETING}]},
    "streamed": {"temperature": "hot", "stream": True},
}
WRONG = {name: chat(fields) for name, fields in WRONG_FIELDS.items()}

HARMLESS_FIELDS: dict[str, Fields] = {
    "unknown": {"conformance_field": {"deep": [1, None]}},
    "null": dict.fromkeys(("stop", "seed", "n", "top_p", "logprobs", "stream", "stream_options")),
}
HARMLESS = {name: chat(fields) for name, fields in HARMLESS_FIELDS.items()}

CONVERSATIONS: dict[str, list[Fields]] = {
    "system": [{"role": "system", "content": "Be brief."}, *user(GREETING)],
    "developer": [{"role": "developer", "content": "Be brief."}, *user(GREETING)],
    "turns": [*user(GREETING), {"role": "assistant", "content": "Yes?"}, *user(GREETING)],
    "list": user([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
    "answer-list": [
        *user(GREETING),
        {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]},
        *user(GREETING),
    ],
}
CONVERSED = {
    name: chat({"messages": messages, "max_tokens": BOUND})
    for name, messages in CONVERSATIONS.items()
}


def given_back(message: Fields) -> Question:
    """Return the chat that goes on behind an answer, with its *message* as it came."""
    return chat({"messages": [*user(GREETING), message, *user(GREETING)]})


_TURNS = CONVERSATIONS["turns"]
_RULE: Fields = {"role": "system", "content": "Be brief."}
_RULED = [_RULE, *_TURNS]
# A conversation, and the same with a message more.
LONGER: dict[str, tuple[list[Fields], list[Fields]]] = {
    "system": (_TURNS, _RULED),
    "second-system": (
        _RULED,
        [_RULE, {"role": "system", "content": "Count from one to ten."}, *_TURNS],
    ),
    "later-system": (
        _RULED,
        [*_RULED[:-1], {"role": "system", "content": "Count to ten."}, _RULED[-1]],
    ),
    "later-developer": (
        _RULED,
        [*_RULED[:-1], {"role": "developer", "content": "Count to ten."}, _RULED[-1]],
    ),
    "second-question": (_TURNS, [*_TURNS, *user("Count to ten.")]),
}
READ = {
    name: tuple(chat({"messages": messages, "max_tokens": BOUND}) for messages in pair)
    for name, pair in LONGER.items()
}
