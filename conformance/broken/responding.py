"""The responses route, which says what a chat would say."""

import json
import time
from collections.abc import Iterator
from typing import Any

from conformance.broken.miniature import Asked, Refused, Reply
from conformance.broken.rules import RESPONSE_RULES, Rule, broken_by
from conformance.broken.seeing import Body
from conformance.broken.talking import Said, Talking

RESPONSES = "/v1/responses"


class Responding(Talking):
    """The talking miniature, with responses, which it keeps as long as it runs."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.stored: dict[str, dict[str, Any]] = {}

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "responses"]

    def other(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.path == RESPONSES:
            self.demand_method(asked, "POST")
            return self.respond(asked)
        if asked.path.startswith(f"{RESPONSES}/"):
            self.demand_method(asked, "GET")
            return self.recall(asked.path.removeprefix(f"{RESPONSES}/"))
        return super().other(asked)

    def recall(self, name: str) -> Reply:
        """Answer GET /v1/responses/{id}."""
        if name not in self.stored:
            raise Refused(404, f"no response {name}", "response_not_found")
        return Reply(200, self.stored[name])

    def respond(self, asked: Asked) -> Reply:
        """Answer POST /v1/responses."""
        body = self.read(asked)
        self.demand_response(body)
        self.find_model(body)
        self.log_processing(asked)
        chat = self.as_chat(body)
        if body.get("stream"):
            return self.streamed(asked, self.response_stream(asked, body, chat))
        with self.permit():
            text = "".join(self.words(asked, chat))
            return Reply(200, self.kept(body, self.response(body, chat, text)))

    def response_rules(self) -> dict[str, Rule]:
        """Return what each parameter may be."""
        return RESPONSE_RULES

    def demand_response(self, body: Body) -> None:
        """Refuse what can't be meant."""
        if name := broken_by(body, self.response_rules(), "input"):
            self.refuse_value(name)
        self.demand_previous(body)

    def demand_previous(self, body: Body) -> None:
        """Refuse to go on from what isn't there."""
        previous = body.get("previous_response_id")
        if previous is not None and previous not in self.stored:
            raise Refused(400, "no such response", "response_not_found", "previous_response_id")

    def as_chat(self, body: Body) -> Body:
        """Return the chat that says the same."""
        given = body["input"]
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        kept = {name: body.get(name) for name in ("model", "temperature", "seed")}
        return kept | {"messages": messages, "max_tokens": body.get("max_output_tokens")}

    def kept(self, body: Body, response: dict[str, Any]) -> dict[str, Any]:
        """Return a response that can be read again, unless that isn't wanted."""
        if body.get("store") is not False:
            self.stored[response["id"]] = response
        return response

    def response(self, body: Body, chat: Body, text: str) -> dict[str, Any]:
        """Return a whole response."""
        said = self.said(chat)
        status = self.status(said)
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        output = [self.message(text, status)]
        return self.beginning(body) | {
            "status": status,
            "incomplete_details": cut,
            "output": output,
            "usage": self.response_usage(said.n_tokens),
        }

    def status(self, said: Said) -> str:
        """Return how a response ends."""
        return "incomplete" if said.ending == "length" else "completed"

    def beginning(self, body: Body) -> dict[str, Any]:
        """Return a response that has said nothing yet."""
        return {
            "id": f"resp_{next(self.numbers)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": body["model"],
            "output": [],
            "previous_response_id": body.get("previous_response_id"),
            "usage": None,
        }

    def message(self, text: str, status: str) -> dict[str, Any]:
        """Return the message of a response."""
        fields = {"type": "message", "role": "assistant", "status": status}
        return fields | {"id": f"msg_{next(self.numbers)}", "content": [self.part(text)]}

    def part(self, text: str) -> dict[str, Any]:
        """Return the one part of a message."""
        return {"type": "output_text", "text": text, "annotations": []}

    def response_usage(self, n_tokens: int) -> dict[str, int]:
        """Return the three counts, by their names here."""
        counts = self.usage(n_tokens)
        return {
            "input_tokens": counts["prompt_tokens"],
            "output_tokens": counts["completion_tokens"],
            "total_tokens": counts["total_tokens"],
        }

    def response_stream(self, asked: Asked, body: Body, chat: Body) -> Iterator[str]:
        """Yield the data of a stream's events."""
        with self.permit():
            for number, event in enumerate(self.events(asked, body, chat)):
                yield json.dumps(event | {"sequence_number": self.sequence_number(number)})

    def sequence_number(self, number: int) -> int:
        """Return an event's number."""
        return number

    def events(self, asked: Asked, body: Body, chat: Body) -> Iterator[dict[str, Any]]:
        """Yield events without their numbers."""
        beginning, text = self.beginning(body), ""
        empty = self.message("", "in_progress") | {"content": []}
        item_place = {"output_index": 0}
        place = item_place | {"item_id": empty["id"], "content_index": 0}
        yield {"type": "response.created", "response": beginning}
        yield {"type": "response.output_item.added", "item": empty} | item_place
        yield {"type": "response.content_part.added", "part": self.part("")} | place
        for token in self.words(asked, chat):
            text += token
            yield {"type": "response.output_text.delta", "delta": token} | place
        whole = self.response(body, chat, text) | {"id": beginning["id"]}
        whole["output"][0]["id"] = empty["id"]
        yield {"type": "response.output_text.done", "text": text} | place
        yield {"type": "response.content_part.done", "part": self.part(text)} | place
        yield {"type": "response.output_item.done", "item": whole["output"][0]} | item_place
        yield {"type": f"response.{whole['status']}", "response": self.kept(body, whole)}
