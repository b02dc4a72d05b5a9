"""What LOGP asks."""

from conformance.questions.chat import HOW, chat

CAPABILITY = "logprobs"
N_TOP = 3
LOGGED = {
    how: chat({**fields, "logprobs": True, "top_logprobs": N_TOP}, CAPABILITY)
    for how, fields in HOW.items()
}
UNLOGGED = {how: chat(fields, CAPABILITY) for how, fields in HOW.items()}
WRONG_TOPS = {
    "too-many": chat({"logprobs": True, "top_logprobs": 21}, CAPABILITY),
    "without-logprobs": chat({"top_logprobs": N_TOP}, CAPABILITY),
}
