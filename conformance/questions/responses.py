"""What RESP asks."""

from collections.abc import Sequence

from conformance.answers import GREETING, LONG_TASK, UNKNOWN_MODEL, Question
from conformance.questions.chat import Fields, user

RESPONSES = "/v1/responses"
N_LEAST = 16  # OpenAI takes no smaller bound
UNKNOWN_RESPONSE = "resp_conformance_none"


def response(**fields: object) -> Question:
    """Return a request for a response; short, and not stored unless *fields* say otherwise."""
    usual: Fields = {
        "input": GREETING,
        "temperature": 0,
        "max_output_tokens": N_LEAST,
        "store": False,
    }
    return Question(RESPONSES, {**usual, **fields}, "responses")


RESPONDED = {"whole": response(), "streamed": response(stream=True)}
CUT = {
    "whole": response(input=LONG_TASK),
    "streamed": response(input=LONG_TASK, stream=True),
}
INPUTS = {
    "messages": response(input=user(GREETING)),
    "parts": response(input=user([{"type": "input_text", "text": GREETING}])),
    "turns": response(
        input=[*user(GREETING), {"role": "assistant", "content": "Yes?"}, *user(GREETING)]
    ),
    "developer": response(input=[{"role": "developer", "content": "Be brief."}, *user(GREETING)]),
    "instructions": response(instructions="Be brief."),
}


def given_back(output: Sequence[object]) -> Question:
    """Return the request that goes on behind a response, with its *output* as it came."""
    return response(input=[*user(GREETING), *output, *user(GREETING)])


STORED = response(store=True)
WRONG = {
    "no-input": Question(RESPONSES, {"max_output_tokens": N_LEAST}, "responses"),
    "input-number": response(input=7),
    "temperature-text": response(temperature="hot"),
    "unknown-model": response(model=UNKNOWN_MODEL),
    "streamed": response(temperature="hot", stream=True),
}
CONTINUED = response(previous_response_id=UNKNOWN_RESPONSE)
