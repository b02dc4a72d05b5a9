"""From texts, pairs of texts and token ids to what an encoder can read; runs on the text worker."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.catalog.kind import Recipe
from service.engine.text.prompt import RefusedPrompt
from service.protocol import Chat, Embed, Prompt, Score, Text, Tokens

QUERY_PROMPTS = ("query",)
DOCUMENT_PROMPTS = ("document", "passage")  # the two words that models have for it


@dataclass(frozen=True)
class Reading:
    """
    What an encoder reads as one.

    Attributes:
        ids: token ids, shape (n,), 1 <= n.
        segments: of each token, which of the two texts of a pair it belongs to; None: there is no pair.
    """

    ids: list[int]
    segments: list[int] | None = None


class TextReader:
    """
    Turns what requests hold into readings.

    Args:
        tokenizer: the model's own, of transformers.
        context_length: longest reading, in tokens.
        n_tokens: ids at or above it are no tokens.
        recipe: has the model's prompts.
    """

    def __init__(self, tokenizer: Any, context_length: int, n_tokens: int, recipe: Recipe) -> None:
        # A copy, as encoding switches options inside.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._context_length = context_length
        self._n_tokens = n_tokens
        self._recipe = recipe

    def inputs(self, job: Embed) -> list[Reading]:
        """
        Return the readings of what is to become vectors, each behind its prompt.

        Raises:
            RefusedPrompt: one is too long or holds what is no token, or no prompt goes by that name.
        """
        prompt = self._prompt(job.prompt_name)
        texts = [prompt + each.text for each in job.inputs if isinstance(each, Text)]
        encoded = iter(self._encode(texts))
        is_one = len(job.inputs) == 1
        return [
            self._checked(
                next(encoded) if isinstance(each, Text) else Reading(list(each.ids)),
                "input" if is_one else f"input.{i}",
            )
            for i, each in enumerate(job.inputs)
        ]

    def apart(self, job: Score) -> list[Reading]:
        """
        Return the readings of all queries, then those of all documents.

        Raises:
            RefusedPrompt: one is too long.
        """
        queries = [self._known(QUERY_PROMPTS) + text for text in job.queries]
        documents = [self._known(DOCUMENT_PROMPTS) + text for text in job.documents]
        readings = self._encode([*queries, *documents])
        param = job.params[0]
        names = [param if len(queries) == 1 else f"{param}.{i}" for i in range(len(queries))]
        names += [f"{job.params[1]}.{i}" for i in range(len(documents))]
        return [self._checked(*each) for each in zip(readings, names, strict=True)]

    def pairs(self, job: Score) -> list[Reading]:
        """
        Return the readings of each document together with its query.

        Raises:
            RefusedPrompt: one is too long.
        """
        n = len(job.documents)
        queries = job.queries * n if len(job.queries) == 1 else job.queries
        found = self._tokenizer(list(queries), list(job.documents), return_token_type_ids=True)
        readings = map(Reading, found["input_ids"], found["token_type_ids"])
        names = [f"{job.params[1]}.{i}" for i in range(n)]
        return [self._checked(*each) for each in zip(readings, names, strict=True)]

    def ids(self, prompt: Prompt) -> list[int]:
        """
        Return the token ids of *prompt*, a text or ids to be checked.

        Raises:
            RefusedPrompt: it holds what is no token.
        """
        assert not isinstance(prompt, Chat), prompt
        reading = (
            Reading(list(prompt.ids))
            if isinstance(prompt, Tokens)
            else self._encode([prompt.text])[0]
        )
        self._check_ids(reading, "prompt")
        return reading.ids

    def text(self, ids: Sequence[int]) -> str:
        """
        Return the text of *ids*.

        Raises:
            RefusedPrompt: one of them is none of the model's.
        """
        return str(self._tokenizer.decode(self.ids(Tokens(tuple(ids)))))

    def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Return the text of each of *ids*."""
        return tuple(str(self._tokenizer.decode([i])).encode() for i in ids)

    def _encode(self, texts: list[str]) -> list[Reading]:
        return [Reading(ids) for ids in self._tokenizer(texts)["input_ids"]] if texts else []

    def _prompt(self, name: str | None) -> str:
        """Return the prompt that a request names, or the one for texts of which nobody says what they are."""
        prompts = self._recipe.prompts
        if name is None:
            default = self._recipe.default_prompt
            return "" if default is None else prompts[default]
        if name not in prompts:
            known = f"its prompts are {', '.join(prompts)}" if prompts else "it has none"
            raise RefusedPrompt(
                f"The model has no prompt of that name; {known}.",
                param="prompt_name",
                code="invalid_value",
            )
        return prompts[name]

    def _known(self, names: Sequence[str]) -> str:
        """Return the first prompt that goes by one of *names*, else the one for any text."""
        found = next((name for name in names if name in self._recipe.prompts), None)
        return self._prompt(found)

    def _checked(self, reading: Reading, param: str) -> Reading:
        n = len(reading.ids)
        if n > self._context_length:
            raise RefusedPrompt(
                f"It has {n} tokens; the model reads {self._context_length} at most.",
                param=param,
                code="context_length_exceeded",
                overflow=(n, self._context_length),
            )
        self._check_ids(reading, param)
        return reading

    def _check_ids(self, reading: Reading, param: str) -> None:
        if not reading.ids:
            raise RefusedPrompt("It has no token.", param=param, code="invalid_value")
        if not 0 <= min(reading.ids) <= max(reading.ids) < self._n_tokens:
            raise RefusedPrompt(
                "It holds a token that the model does not have.", param=param, code="invalid_token"
            )
