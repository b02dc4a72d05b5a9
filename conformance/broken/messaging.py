"""Anthropic's messages, which say what a chat would say."""

import json
from collections.abc import Iterator
from typing import Any

from conformance.broken.miniature import Asked, Refused, Reply
from conformance.broken.rules import MESSAGE_RULES, Rule, broken_by
from conformance.broken.seeing import Body
from conformance.broken.talking import Said, Talking, pieces

MESSAGES = "/v1/messages"
COUNTING = f"{MESSAGES}/count_tokens"
KINDS = {404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}
REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}

Block = dict[str, Any]
Event = dict[str, Any]


class Messaging(Talking):
    """The talking miniature, with messages."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "messages"]

    def other(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.path not in {MESSAGES, COUNTING}:
            return super().other(asked)
        self.demand_method(asked, "POST")
        return self.count(asked) if asked.path == COUNTING else self.converse(asked)

    def refusal(self, asked: Asked, refused: Refused) -> Reply:
        """Return the response to a request that is refused."""
        reply = super().refusal(asked, refused)
        if not asked.path.startswith(MESSAGES):
            return reply
        kind = KINDS.get(reply.status, "invalid_request_error")
        return Reply(reply.status, self.message_error(kind, str(refused)), reply.headers)

    def message_error(self, kind: str, message: str) -> dict[str, Any]:
        """Return Anthropic's envelope."""
        return {"type": "error", "error": {"type": kind, "message": message}}

    def converse(self, asked: Asked) -> Reply:
        """Answer POST /v1/messages."""
        body = self.read(asked)
        self.demand_message(body)
        self.find_model(body)
        self.log_processing(asked)
        chat = self.as_usual(body)
        if body.get("stream"):
            reply = self.streamed(asked, self.message_stream(asked, body, chat))
            reply.event = self.named
            return reply
        with self.permit():
            blocks = self.blocks(self.said(chat), "".join(self.words(asked, chat)))
            return Reply(200, self.ended(self.message_begun(body, chat), chat, blocks))

    def message_rules(self) -> dict[str, Rule]:
        """Return what each parameter may be."""
        return MESSAGE_RULES

    def demand_message(self, body: Body) -> None:
        """Refuse what can't be meant."""
        if name := broken_by(body, self.message_rules(), "messages", "max_tokens"):
            self.refuse_value(name)

    def as_usual(self, body: Body) -> Body:
        """Return the chat that says the same."""
        tools = [
            {"function": {"name": tool["name"], "parameters": tool["input_schema"]}}
            for tool in body.get("tools") or []
        ]
        kept = {name: body.get(name) for name in ("messages", "max_tokens", "temperature", "seed")}
        return kept | {
            "stop": body.get("stop_sequences"),
            "tools": tools,
            "tool_choice": self.usual_choice(body.get("tool_choice") or {}),
        }

    def usual_choice(self, choice: dict[str, Any]) -> Any:
        """Return which tool must be used, as a chat says it."""
        if choice.get("type") == "tool":
            return {"function": {"name": choice["name"]}}
        return "required" if choice.get("type") == "any" else None

    def blocks(self, said: Said, text: str) -> list[Block]:
        """Return the content of a message."""
        if not said.calls:
            return [{"type": "text", "text": text}]
        return [self.use(call["id"], call["function"]) for call in said.calls]

    def use(self, name: str, function: dict[str, Any]) -> Block:
        """Return the use of a tool."""
        given = json.loads(function["arguments"])
        return {"type": "tool_use", "id": name, "name": function["name"], "input": given}

    def message_begun(self, body: Body, chat: Body) -> dict[str, Any]:
        """Return a message that has said nothing yet."""
        return {
            "id": f"msg_{next(self.numbers)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self.n_input(chat), "output_tokens": 0},
        }

    def n_input(self, chat: Body) -> int:
        """Return how many tokens there are to read."""
        return self.usage_of(chat, 0)["prompt_tokens"]

    def ended(self, begun: dict[str, Any], chat: Body, blocks: list[Block]) -> dict[str, Any]:
        """Return a message with all that it says."""
        usage = begun["usage"] | {"output_tokens": self.said(chat).n_tokens}
        return begun | {"content": blocks, "usage": usage} | self.end(chat)

    def end(self, chat: Body) -> dict[str, Any]:
        """Return why a message stops, and at which text."""
        stop = self.stop_met(chat)
        reason = "stop_sequence" if stop else REASONS[self.said(chat).ending]
        return {"stop_reason": reason, "stop_sequence": stop}

    def stop_met(self, chat: Body) -> str | None:
        """Return the first of the stop texts; None where none was met."""
        said = "".join(self.said(chat | {"stop": None}).tokens)
        places = {said.find(stop): stop for stop in self.stop_texts(chat) if stop in said}
        return places[min(places)] if places else None

    # Counting

    def count(self, asked: Asked) -> Reply:
        """Answer POST /v1/messages/count_tokens."""
        body = self.read(asked)
        if name := broken_by(body, self.message_rules(), "messages"):
            self.refuse_value(name)
        self.find_model(body)
        return Reply(200, {"input_tokens": self.n_counted(self.as_usual(body))})

    def n_counted(self, chat: Body) -> int:
        """Return how many tokens there would be to read."""
        return self.n_input(chat)

    # Streams

    def named(self, data: str) -> str:
        """Return a server-sent event with the name that its data has."""
        return f"event: {json.loads(data)['type']}\ndata: {data}\n\n"

    def message_stream(self, asked: Asked, body: Body, chat: Body) -> Iterator[str]:
        """Yield the data of a stream's events."""
        with self.permit():
            for event in self.message_events(asked, body, chat):
                yield json.dumps(event)

    def message_events(self, asked: Asked, body: Body, chat: Body) -> Iterator[Event]:
        """Yield a message, piece by piece."""
        said = self.said(chat)
        yield {"type": "message_start", "message": self.message_begun(body, chat)}
        yield {"type": "ping"}
        for index, block in enumerate(self.blocks(said, "")):
            yield {
                "type": "content_block_start",
                "index": index,
                "content_block": self.empty(block),
            }
            for delta in self.deltas(asked, chat, block):
                yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        usage = {"output_tokens": said.n_tokens}
        yield {"type": "message_delta", "delta": self.end(chat), "usage": usage}
        yield {"type": "message_stop"}

    def empty(self, block: Block) -> Block:
        """Return a block as it is opened."""
        return block | ({"input": {}} if "input" in block else {})

    def deltas(self, asked: Asked, chat: Body, block: Block) -> Iterator[dict[str, str]]:
        """Yield the pieces of a block."""
        if block["type"] == "text":
            for token in self.words(asked, chat):
                yield {"type": "text_delta", "text": token}
        else:
            for piece in pieces(json.dumps(block["input"])):
                yield {"type": "input_json_delta", "partial_json": piece}
