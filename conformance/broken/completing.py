"""Completions of bare texts, which say what a chat would say. A token is a byte of the prompt."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from conformance.broken.miniature import Asked, Reply
from conformance.broken.rules import COMPLETION_RULES, Rule, broken_by
from conformance.broken.seeing import Body
from conformance.broken.talking import Talking

COMPLETIONS = "/v1/completions"

Prompt = str | list[int]


class Completing(Talking):
    """The talking miniature, with completions."""

    def tags(self) -> list[str]:
        """Return what the model promises."""
        return [*super().tags(), "completions"]

    def other(self, asked: Asked) -> Reply:
        """Find who answers."""
        if asked.path != COMPLETIONS:
            return super().other(asked)
        self.demand_method(asked, "POST")
        return self.complete_texts(asked)

    def complete_texts(self, asked: Asked) -> Reply:
        """Answer POST /v1/completions."""
        body = self.read(asked)
        self.demand_completion(body)
        self.find_model(body)
        self.log_processing(asked)
        if body.get("stream"):
            return self.streamed(asked, self.completion_stream(asked, body))
        with self.permit():
            return Reply(200, self.completion(asked, body))

    def completion_rules(self) -> dict[str, Rule]:
        """Return what each parameter may be."""
        return COMPLETION_RULES

    def demand_completion(self, body: Body) -> None:
        """Refuse what can't be meant, and what can't be done."""
        if name := broken_by(body, self.completion_rules(), "prompt"):
            self.refuse_value(name)
        if body.get("suffix"):
            self.refuse_unsupported("suffix")

    def prompts(self, body: Body) -> list[Prompt]:
        """Return what is to be completed, one by one."""
        given = body["prompt"]
        return [given] if isinstance(given, str) or isinstance(given[0], int) else given

    def prompt_text(self, prompt: Prompt) -> str:
        """Return a prompt as text."""
        return prompt if isinstance(prompt, str) else bytes(prompt).decode("utf-8", "replace")

    def n_prompt_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt has."""
        return len(prompt.encode() if isinstance(prompt, str) else prompt)

    def completion(self, asked: Asked, body: Body) -> dict[str, Any]:
        """Return a whole completion."""
        choices = []
        for index, prompt in self.numbered(body):
            tokens = [*self.echoed(prompt, body), *self.words(asked, body)]
            choice = self.text_choice(index, "".join(tokens), self.said(body).ending)
            choices.append(choice | self.text_logprobs(tokens, prompt, body))
        more = {"choices": choices, "usage": self.completion_usage(body)}
        return self.frame("text_completion") | more

    def numbered(self, body: Body) -> Iterator[tuple[int, Prompt]]:
        """Yield the index of each choice with its prompt."""
        n_choices = self.n_choices(body)
        return enumerate(prompt for prompt in self.prompts(body) for _ in range(n_choices))

    def text_choice(self, index: int, text: str, end: str | None) -> dict[str, Any]:
        """Return a choice, or a piece of it."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": end}

    def echoed(self, prompt: Prompt, body: Body) -> list[str]:
        """Return what of a prompt is told again, token by token."""
        return list(self.prompt_text(prompt)) if body.get("echo") else []

    def text_logprobs(self, tokens: list[str], prompt: Prompt, body: Body) -> dict[str, Any]:
        """Return what a choice has besides, where it is asked for."""
        if body.get("logprobs") is None:
            return {}
        lists = self.lists(tokens, int(body["logprobs"]))
        if body.get("echo"):
            return {"logprobs": self.beginning_with_nothing(lists)}
        n_before = len(self.prompt_text(prompt))
        return {"logprobs": lists | {"text_offset": [n_before + at for at in lists["text_offset"]]}}

    def lists(self, tokens: list[str], n_top: int) -> dict[str, list[Any]]:
        """Return the lists of a choice's tokens."""
        lengths = [len(token) for token in tokens]
        return {
            "tokens": tokens,
            "token_logprobs": [self.entry(token, 0)["logprob"] for token in tokens],
            "top_logprobs": [
                {each["token"]: each["logprob"] for each in self.top(token, n_top)}
                for token in tokens
            ],
            "text_offset": list(itertools.accumulate(lengths, initial=0))[:-1],
        }

    def beginning_with_nothing(self, lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return lists of which the first token follows none, and so has no probability."""
        names = ("token_logprobs", "top_logprobs")
        return lists | {name: [None, *lists[name][1:]] for name in names}

    def completion_usage(self, body: Body) -> dict[str, int]:
        """Return the three counts."""
        n_prompt = sum(self.n_prompt_tokens(each) for each in self.prompts(body))
        n_tokens = len(list(self.numbered(body))) * self.said(body).n_tokens
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_tokens,
            "total_tokens": n_prompt + n_tokens,
        }

    def completion_stream(self, asked: Asked, body: Body) -> Iterator[str]:
        """Yield the data of a stream's events."""
        with self.permit():
            frame = self.frame("text_completion")
            for chunk in self.completion_chunks(asked, body):
                yield json.dumps(frame | chunk)
        yield "[DONE]"

    def completion_chunks(self, asked: Asked, body: Body) -> Iterator[dict[str, Any]]:
        """Yield what each chunk of a stream adds to its frame."""
        for index, prompt in self.numbered(body):
            for token in (*self.echoed(prompt, body), *self.words(asked, body)):
                yield {"choices": [self.text_choice(index, token, None)]}
            yield {"choices": [self.text_choice(index, "", self.said(body).ending)]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {"choices": [], "usage": self.completion_usage(body)}
