"""What TOK asks."""

from conformance.answers import Question
from conformance.questions.chat import BOUND, CONVERSATIONS, chat

TOKENIZE = "/v1/tokenize"
DETOKENIZE = "/v1/detokenize"
CAPABILITY = "tokenize"
TEXTS = {
    "plain": "A clock counts its ticks.",
    "umlauts": "Zw\u00f6lf Glockenschl\u00e4ge,\n\tdann \u2026 Stille",
    "emoji": "\U0001f570\ufe0f at \u5348\u524d",
}


def tokenizing(**fields: object) -> Question:
    """Return a request for tokens."""
    return Question(TOKENIZE, fields, CAPABILITY)


def detokenizing(tokens: object) -> Question:
    """Return a request for the text of *tokens*."""
    return Question(DETOKENIZE, {"tokens": tokens}, CAPABILITY)


TOKENIZED = {name: tokenizing(prompt=each) for name, each in TEXTS.items()}
COUNTED = {name: tokenizing(messages=turns) for name, turns in CONVERSATIONS.items()}
USED = {
    name: chat({"messages": turns, "max_tokens": BOUND}, f"{CAPABILITY}, chat")
    for name, turns in CONVERSATIONS.items()
}
WRONG = {
    "nothing": tokenizing(),
    "prompt-number": tokenizing(prompt=7),
    "beyond": detokenizing([2**31 - 1]),
    "negative": detokenizing([-1]),
    "no-tokens": detokenizing("one"),
}
