"""What COMPL asks."""

from conformance.answers import UNKNOWN_MODEL, Question
from conformance.questions.chat import BOUND, HOW, N_CHOICES, N_SHORT, STREAMED, Fields

COMPLETIONS = "/v1/completions"
PROMPTS = ["One, two, three,", "Night"]
N_TOKENS = 32
N_TOP = 2


def completion(fields: Fields, capability: str = "completions") -> Question:
    """Return a text to complete; short, and at temperature 0 unless *fields* say otherwise."""
    usual: Fields = {"prompt": PROMPTS[0], "temperature": 0, "max_tokens": N_SHORT}
    return Question(COMPLETIONS, {**usual, **fields}, capability)


LONG: Fields = {"prompt": PROMPTS[0]}
COMPLETED = {how: completion(fields) for how, fields in HOW.items()}
UNSTOPPED = completion({**LONG, "max_tokens": N_TOKENS})
ECHOED: Fields = {"prompt": PROMPTS, "echo": True}
LISTS = {
    "list": completion(ECHOED),
    "list-streamed": completion({**ECHOED, **STREAMED}),
    "several": completion({**ECHOED, "n": N_CHOICES}),
}
ALONE = [completion({"prompt": each, "echo": True}) for each in PROMPTS]
TOKENS = {
    "one": completion({"prompt": [2, 3]}),
    "several": completion({"prompt": [[2, 3], [4]]}),
}
NO_TOKENS = {
    "beyond": completion({"prompt": [2**31 - 1]}),
    "negative": completion({"prompt": [[-1]]}),
}
CUT = {how: completion({**LONG, "max_tokens": BOUND, **fields}) for how, fields in HOW.items()}
LOGGED = completion({"logprobs": N_TOP}, "completions, logprobs")
LOGGED_PROMPT = {
    how: completion({"logprobs": N_TOP, "echo": True, **fields}, "completions, logprobs")
    for how, fields in {"continued": {}, "scored": {"max_tokens": 0}}.items()
}
SUFFIXED = completion({"suffix": "nine, ten."})
WRONG = {
    "prompt-number": completion({"prompt": 7}),
    "temperature-text": completion({"temperature": "hot"}),
    "max_tokens-negative": completion({"max_tokens": -2}),
    "unknown-model": completion({"model": UNKNOWN_MODEL}),
    "streamed": completion({"temperature": "hot", "stream": True}),
}
