"""
Chat with all of its parameters, tools, forms and log probabilities.

The clock doesn't understand a word: it counts its ticks, calls the tools that it must call with
the smallest arguments that fit, and says the smallest JSON that has the form asked for.
"""

import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.broken.forms import instance, is_schema
from conformance.broken.miniature import Asked, Refused, Reply
from conformance.broken.rules import CHAT_RULES, Rule, broken_by
from conformance.broken.seeing import Body, Seeing

N_UNBOUND = 16
LEAST_P = 0.001  # of a thousand numbers, each as likely as the others

Call = dict[str, Any]


@dataclass
class Said:
    """
    What one choice says: its tokens, why it ends, and the calls that come instead of text.

    Attributes:
        n_unsaid: tokens that were generated and aren't told.
    """

    tokens: list[str]
    ending: str
    calls: list[Call] = field(default_factory=list)
    n_unsaid: int = 0

    @property
    def n_tokens(self) -> int:
        """How many tokens it took."""
        arguments = (call["function"]["arguments"] for call in self.calls)
        return len(self.tokens) + sum(len(pieces(each)) for each in arguments) + self.n_unsaid


def pieces(text: str) -> list[str]:
    """Return a text's tokens."""
    return re.findall(r"\w+|\W", text)


class Talking(Seeing):
    """The miniature, with the whole of a chat."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "tools", "json_schema", "logprobs"]

    # What is refused

    def read(self, asked: Asked) -> Body:
        """Return a request's body; without a seed it gets one, so that it is answered once."""
        body = super().read(asked)
        if body.get("seed") is None:
            body["seed"] = random.randrange(2**31)
        return body

    def chat(self, asked: Asked) -> Reply:
        """Answer POST /v1/chat/completions."""
        self.demand_chat(self.read(asked))
        return super().chat(asked)

    def demand_chat(self, body: Body) -> None:
        """Refuse what can't be meant, and what can't be done."""
        self.demand_rules(body)
        self.demand_supported(body)
        self.demand_tools(body)
        self.demand_form(body)
        self.demand_tops(body)
        for url in self.pictures(body):
            self.demand_picture(url)

    def rules(self) -> dict[str, Rule]:
        """Return what each parameter may be."""
        return CHAT_RULES

    def demand_rules(self, body: Body) -> None:
        """Refuse a parameter of a wrong type or out of its range."""
        if name := broken_by(body, self.rules(), "messages"):
            self.refuse_value(name)

    def refuse_value(self, name: str) -> None:
        """Refuse a parameter's value."""
        raise Refused(400, f"{name} has no such value", "invalid_value", name)

    def demand_supported(self, body: Body) -> None:
        """Refuse what would change the answer and isn't there."""
        for name in ("audio", "functions", "web_search_options"):
            if body.get(name) is not None:
                self.refuse_unsupported(name)

    def refuse_unsupported(self, name: str) -> None:
        """Refuse a parameter, whatever its value."""
        raise Refused(400, f"there is no {name} here", "unsupported_parameter", name)

    def demand_tools(self, body: Body) -> None:
        """Refuse tools that can't be called."""
        functions = [tool["function"] for tool in body.get("tools") or []]
        if not all(is_schema(each.get("parameters", {})) for each in functions):
            self.refuse_value("tools")
        names, wanted = {each["name"] for each in functions}, body.get("tool_choice")
        is_offered = bool(names) if wanted == "required" else self.named_tool(body) in {"", *names}
        if not is_offered:
            self.refuse_value("tool_choice")

    def named_tool(self, body: Body) -> str:
        """Return the function that must be called; empty where none is named."""
        choice = body.get("tool_choice")
        return str(choice["function"]["name"]) if isinstance(choice, dict) else ""

    def demand_form(self, body: Body) -> None:
        """Refuse a form that is none."""
        wanted = body.get("response_format") or {}
        if wanted.get("type") != "json_schema":
            return
        named = wanted.get("json_schema") or {}
        if not named.get("name") or not is_schema(named.get("schema")):
            self.refuse_value("response_format")

    def demand_tops(self, body: Body) -> None:
        """Refuse alternatives of what isn't asked for."""
        if body.get("top_logprobs") and not body.get("logprobs"):
            self.refuse_value("top_logprobs")

    # What is said

    def said(self, body: Body) -> Said:
        """Decide what a choice says; the same each time."""
        if calls := self.calls(body):
            return self.within(Said([], "tool_calls", calls), self.n_tokens(body))
        if (form := self.form(body)) is not None:
            text = json.dumps(self.value(form), separators=(",", ":"))
            said = Said(pieces(text), "stop")
        else:
            n_tokens = self.n_tokens(body)
            said = Said(list(itertools.islice(self.ticks(body), n_tokens)), self.end_of(body))
        return self.stopped(said, self.stop_texts(body))

    def n_tokens(self, body: Body) -> int:
        """Return how many ticks to count."""
        bound = self.bound(body)
        return N_UNBOUND if bound is None else bound

    def bound(self, body: Body) -> int | None:
        """Return how many tokens there may be; None where nothing says."""
        given = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
        return next((int(each) for each in given if each is not None), None)

    def end_of(self, body: Body) -> str:
        """Return why counting ends: it was cut, unless nothing bounds it."""
        return "stop" if self.bound(body) is None else "length"

    def within(self, said: Said, n_tokens: int) -> Said:
        """Return calls as they are, or nothing of them where they would be cut."""
        return Said([], "length", n_unsaid=n_tokens) if said.n_tokens > n_tokens else said

    def ticks(self, body: Body) -> Iterator[str]:
        """Yield numbers without end; in order, unless they are to be left to chance or a bias."""
        chance = random.Random(self.seed(body))
        forced = self.forced_token(body)
        for number in itertools.count(1):
            yield forced or f"{chance.randrange(1000) if self.is_open(body) else number}… "

    def is_open(self, body: Body) -> bool:
        """Whether an answer is left to chance."""
        top_p = body.get("top_p")
        return bool(body.get("temperature")) and (top_p is None or top_p > LEAST_P)

    def forced_token(self, body: Body) -> str:
        """Return the token that a bias leaves as the only one; empty where there is none."""
        biases = body.get("logit_bias") or {}
        return next((f"{chr(int(key))} " for key, bias in biases.items() if bias == 100), "")

    def seed(self, body: Body) -> int:
        """Return where chance begins."""
        return int(body["seed"])

    def stop_texts(self, body: Body) -> list[str]:
        """Return the texts at which the answer ends."""
        stop = body.get("stop") or []
        return [stop] if isinstance(stop, str) else list(stop)

    def stopped(self, said: Said, stops: list[str]) -> Said:
        """End before the first of *stops*."""
        text = "".join(said.tokens)
        places = [at for stop in stops if (at := text.find(stop)) >= 0]
        return Said(pieces(text[: min(places)]), "stop") if places else said

    def n_choices(self, body: Body) -> int:
        """Return how many answers to give."""
        return int(body.get("n") or 1)

    # Tools and forms

    def calls(self, body: Body) -> list[Call]:
        """Return the calls that must be made: of the named function, or of all that there are."""
        functions = [tool["function"] for tool in body.get("tools") or []]
        if name := self.named_tool(body):
            functions = [each for each in functions if each["name"] == name]
        elif body.get("tool_choice") != "required":
            return []
        elif body.get("parallel_tool_calls") is False:
            functions = functions[:1]
        return [self.call(each) for each in functions]

    def call(self, function: dict[str, Any]) -> Call:
        """Return one call."""
        arguments = self.arguments(function)
        called = {"name": function["name"], "arguments": arguments}
        return {"id": self.call_id(), "type": "function", "function": called}

    def call_id(self) -> str:
        """Return the name of a new call."""
        return f"call_{next(self.numbers)}"

    def arguments(self, function: dict[str, Any]) -> str:
        """Return a call's arguments."""
        return json.dumps(instance(function.get("parameters", {})))

    def form(self, body: Body) -> Any:
        """Return the schema that the answer must fit; None where it may be any text."""
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_object":
            return {"type": "object"}
        return wanted["json_schema"]["schema"] if "json_schema" in wanted else None

    def value(self, schema: Any) -> Any:
        """Return what fits a schema."""
        return instance(schema)

    # Log probabilities

    def logprobs(self, tokens: list[str], body: Body) -> dict[str, Any]:
        """Return what a choice has besides, where it is asked for."""
        if not body.get("logprobs"):
            return {}
        n_top = int(body.get("top_logprobs") or 0)
        return {"logprobs": {"content": [self.logged(token, n_top) for token in tokens]}}

    def logged(self, token: str, n_top: int) -> dict[str, Any]:
        """Return the entry of a token with its alternatives."""
        return self.entry(token, 0) | {"top_logprobs": self.top(token, n_top)}

    def top(self, token: str, n_top: int) -> list[dict[str, Any]]:
        """Return the likeliest tokens, of which the one that was said is the first."""
        names = [token, *(f"not {rank}" for rank in range(1, n_top))]
        return [self.entry(name, rank) for rank, name in enumerate(names[:n_top])]

    def entry(self, token: str, rank: int) -> dict[str, Any]:
        """Return a token with its bytes; each rank is half as likely as the one before."""
        logprob = (rank + 1) * math.log(0.5)
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    # How it is said

    def words(self, asked: Asked, body: Body) -> Iterator[str]:
        """Yield the answer, token by token."""
        for token in self.said(body).tokens:
            self.tick()
            yield token

    def usage_of(self, body: Body, n_choices: int) -> dict[str, int]:
        """Return the three counts; each message and each picture makes the prompt longer."""
        usage = self.usage(n_choices * self.said(body).n_tokens)
        n_more = self.n_picture_tokens(body) + len(self.read_messages(body)) - 1
        more = {"prompt_tokens": n_more, "total_tokens": n_more}
        return {name: count + more.get(name, 0) for name, count in usage.items()}

    def read_messages(self, body: Body) -> list[Any]:
        """Return the messages that the model reads: all."""
        return list(body["messages"])

    def complete(self, asked: Asked, body: Body) -> dict[str, Any]:
        """Return a whole completion."""
        n_choices = self.n_choices(body)
        choices = [self.whole(asked, body) | {"index": index} for index in range(n_choices)]
        more = {"choices": choices, "usage": self.usage_of(body, n_choices)}
        return self.frame("chat.completion") | more

    def whole(self, asked: Asked, body: Body) -> dict[str, Any]:
        """Return a whole choice."""
        said, tokens = self.said(body), list(self.words(asked, body))
        message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens)}
        if said.calls:
            message |= {"content": None, "tool_calls": said.calls}
        choice = {"message": message, "finish_reason": said.ending}
        return choice | self.logprobs(tokens, body)

    def chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        """Yield what each chunk of a stream adds to its frame."""
        n_choices = self.n_choices(body)
        for index in range(n_choices):
            for chunk in self.choice_chunks(asked, body):
                chunk["choices"][0]["index"] = index
                yield chunk
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {"choices": [], "usage": self.usage_of(body, n_choices)}

    def choice_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        """Yield the chunks of one choice."""
        said = self.said(body)
        yield self.choice({"role": "assistant", "content": None if said.calls else ""})
        for delta in self.call_deltas(said.calls):
            yield self.choice({"tool_calls": [delta]})
        for token in self.words(asked, body):
            chunk = self.choice({"content": token})
            chunk["choices"][0] |= self.logprobs([token], body)
            yield chunk
        yield self.choice({}, said.ending)

    def call_deltas(self, calls: list[Call]) -> Iterator[dict[str, Any]]:
        """Yield calls in pieces."""
        for index, call in enumerate(calls):
            yield self.opening(index, call)
            for piece in pieces(call["function"]["arguments"]):
                yield {"index": index, "function": {"arguments": piece}}

    def opening(self, index: int, call: Call) -> dict[str, Any]:
        """Return a call's first delta."""
        return call | {"index": index, "function": call["function"] | {"arguments": ""}}
