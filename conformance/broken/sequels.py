"""What a transcript asks beyond the tables of questions: what needs an answer, or a listener, first."""

from collections.abc import Callable
from typing import Any

from conformance.answers import Question
from conformance.client import Exchange, Server
from conformance.listener import HOST, Listener
from conformance.questions.chat import STREAMED, chat
from conformance.questions.completions import completion
from conformance.questions.images import ASKING, picture, seeing
from conformance.questions.messages import given_back as given_as_blocks
from conformance.questions.messages import message
from conformance.questions.responses import RESPONSES, STORED, response
from conformance.questions.structured import closed, formed
from conformance.questions.tokens import detokenizing
from conformance.questions.tools import LAMP, given_back

STOP = "7… 8"
USE = {"type": "tool_use", "id": "call_a", "name": LAMP, "input": {"is_on": True}}
NOBODY = f"http://{HOST}:9/"

Ask = Callable[[Server], Exchange]


def posted(server: Server, question: Question) -> Exchange:
    """Return the answer to a question."""
    body = {"model": server.model, **question.fields}
    return server.post(question.path, body, question.headers)


def asking(question: Question) -> Ask:
    """Return what asks a question."""
    return lambda server: posted(server, question)


def responded(server: Server, question: Question) -> str:
    """Return the id of a new response."""
    return str(posted(server, question).fields().get("id"))


def recalling(question: Question) -> Ask:
    """Return what reads a response again."""
    return lambda server: server.get(f"{RESPONSES}/{responded(server, question)}")


def continued(server: Server) -> Exchange:
    """Go on from a response."""
    return posted(server, response(previous_response_id=responded(server, STORED)))


def result(content: object) -> Ask:
    """Return what gives back the result of a call."""
    function = {"name": LAMP, "arguments": '{"is_on": true}'}
    call: dict[str, Any] = {"id": "call_a", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return asking(given_back(message, "call_a", content))


def fetching(address: str) -> list[Question]:
    """Return what would have a picture and a schema fetched."""
    return [seeing(ASKING, picture(address)), formed(closed({"value": {"$ref": address}}))]


def visits(server: Server) -> str:
    """Say how often the server goes where it is sent."""
    with Listener() as listener:
        for question in fetching(f"http://{HOST}:{listener.port}/"):
            posted(server, question)
        return f"{listener.n_visits()} visits"


SEQUELS: dict[str, Ask] = {
    "stop": asking(chat({"stop": STOP, "max_tokens": 20})),
    "stop in a list": asking(chat({"stop": ["never", STOP], "max_tokens": 20})),
    "stop in a stream": asking(chat({**STREAMED, "stop": STOP, "max_tokens": 20})),
    "stop of a completion": asking(completion({"stop": STOP, "max_tokens": 20})),
    "stop of its stream": asking(completion({**STREAMED, "stop": STOP, "max_tokens": 20})),
    "stop of a message": asking(message({"stop_sequences": ["never", STOP], "max_tokens": 20})),
    "use and its result": asking(given_as_blocks([USE], "on")),
    "text of tokens": asking(detokenizing(list(STOP.encode()))),
    "result": result("on"),
    "result in a list": result([{"type": "text", "text": "on"}]),
    "recalled": recalling(STORED),
    "recalled, though not stored": recalling(response()),
    "continued": continued,
    **{f"sent away {at}": asking(each) for at, each in enumerate(fetching(NOBODY))},
}
