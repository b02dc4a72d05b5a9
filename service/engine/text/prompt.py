"""From a chat, a text or token ids to a prompt that the model can take; runs on the text worker."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper
from numpy.typing import NDArray

from service.engine.model.images import ImageReader, ReadImage, UnreadableImage, plain
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.abilities import REFUSALS
from service.engine.text.call_format import formats
from service.engine.text.chat_template import ChatTemplate, LostTurn, RenderedChat
from service.protocol import Chat, Job, Prompt, Text, Tokens

MAX_REASON_LENGTH = 200  # characters of a template's refusal that a client is told; taste
MAX_QUOTED_LENGTH = 60  # characters of a message that can't be in the prompt; taste
# Characters per token of the context up to which a prompt that is too long is counted to its end; taste.
COUNTED_PER_TOKEN = 8


class RefusedPrompt(Exception):
    """
    The job cannot become a prompt for this model, by the caller's fault.

    Attributes:
        message: what is wrong with it, in a sentence for the caller.
        param: the request's field that is to blame.
        code: the error's code on the wire.
        overflow: of a prompt that is too long, its tokens and how many it could have.
    """

    def __init__(
        self, message: str, *, param: str, code: str, overflow: tuple[int, int] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.overflow = overflow


class TokenMask(Protocol):
    """
    Says which tokens may come next in one answer.

    Attributes:
        is_broken: the mask could not be followed; the answer is not to be trusted.
    """

    is_broken: bool

    def advance(self, token: int) -> None:
        """Take the *token* that was drawn."""

    def fill(self, bits: NDArray[np.int32], row: int) -> None:
        """Write into *row* of *bits*, shape (rows, words of 32 tokens), which tokens may come next."""


@dataclass(frozen=True)
class Prepared:
    """
    A job as the model can begin it.

    Attributes:
        ids: the prompt's token ids, shape (n,), 1 <= n.
        text: the prompt's text, as `echo` repeats it.
        is_thinking: the prompt ends inside of thoughts.
        token_mask: holds the answer to what it must be; None: the answer is free.
        last_turn_at: place of the token with which the text of a chat's last turn begins; 0: it isn't known.
        images: those of which `ids` has the tokens.
    """

    ids: list[int]
    text: str = ""
    is_thinking: bool = False
    token_mask: TokenMask | None = None
    last_turn_at: int = 0
    images: tuple[ReadImage, ...] = ()


class Prompter:
    """
    Turns chats, texts and token ids into prompts.

    Args:
        tokenizer: the model's own, with its chat template.
        context_length: longest prompt and answer together, in tokens.
        vocabulary: the model's tokens.
        window: of prompts as long or longer, find where a chat's last turn begins.
        model_context_length: what the model could do with more memory; None: it can do no more.
        images: reads images; None: the model takes none.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        context_length: int,
        vocabulary: Vocabulary,
        *,
        window: float = math.inf,
        model_context_length: int | None = None,
        images: ImageReader | None = None,
    ) -> None:
        # A copy: encoding switches options inside, while the MLX thread decodes with the original.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._context_length = context_length
        self._window = window
        self._model_context_length = model_context_length or context_length
        self._vocabulary = vocabulary
        self._images = images
        self._template = ChatTemplate(self._tokenizer, images.block if images else "")
        self._thoughts = formats(tokenizer).thoughts
        self._added = {
            i for i, token in tokenizer.added_tokens_decoder.items() if not token.special
        }

    def prepare(self, job: Job) -> Prepared:
        """
        Return the prompt of *job*, which leaves room for at least one token; its answer is free.

        Raises:
            RefusedPrompt: the prompt can't be made or is too long.
        """
        rendered = self._render(job.prompt) if isinstance(job.prompt, Chat) else None
        images = self._read(job.prompt)
        ids = self._ids(job.prompt, rendered, self._context_length, images)
        room = self._context_length - len(ids)
        if room < 1 and job.max_tokens != 0:
            raise self._overflow(len(ids), _param(job.prompt))
        return Prepared(
            ids,
            text=self._echo(job, ids) if job.echo else "",
            is_thinking=rendered is not None
            and self._thoughts is not None
            and self._thoughts.are_open(rendered.opening),
            last_turn_at=self._last_turn_at(job.prompt, ids, images)
            if len(ids) >= self._window
            else 0,
            images=images,
        )

    def ids(self, prompt: Prompt, limit: int | None = None) -> list[int]:
        """
        Return the token ids of *prompt*, at least one.

        Args:
            prompt: a chat, a text, or ids to be checked.
            limit: how many there may be; of far more, no more are looked at. None: as many as there are.

        Raises:
            RefusedPrompt: the model has no chat template, or its template refuses these turns, or the
                prompt is empty, over the limit, or holds an id that is none of the model's.
        """
        rendered = self._render(prompt) if isinstance(prompt, Chat) else None
        return plain(self._ids(prompt, rendered, limit, self._read(prompt)), self._images)

    def _read(self, prompt: Prompt) -> tuple[ReadImage, ...]:
        """Return the images of *prompt*."""
        if not isinstance(prompt, Chat) or not prompt.images:
            return ()
        assert self._images is not None, "a model that takes no images is asked for none"
        found = []
        for i, data in enumerate(prompt.images):
            try:
                found.append(self._images.read(data))
            except UnreadableImage as error:
                raise RefusedPrompt(
                    f"Image {i + 1} of the request can't be read: {error}.",
                    param="messages",
                    code="invalid_image",
                ) from error
        return tuple(found)

    def _ids(
        self,
        prompt: Prompt,
        rendered: RenderedChat | None,
        limit: int | None,
        images: Sequence[ReadImage],
    ) -> list[int]:
        """Return the token ids of *prompt*, a chat as it was *rendered*; those of *images* are their own."""
        match prompt:
            case Chat():
                assert rendered is not None
                self._check_length(rendered.text, limit, "messages")
                # Whoever has to shorten it is told by how much, unless it is far too long.
                is_counted = limit is None or len(rendered.text) <= limit * COUNTED_PER_TOKEN
                ids = self._encode_pieces(rendered.pieces(), None if is_counted else limit, images)
            case Text(text):
                self._check_length(text, limit, "prompt")
                ids = self._encode(text, add_special_tokens=True, split_special_tokens=True)
            case Tokens(ids=given):
                ids = list(given)
        param = _param(prompt)
        if limit is not None and len(ids) > limit:
            raise self._overflow(len(ids), param)
        if not ids:
            raise RefusedPrompt("The prompt is empty.", param=param, code="invalid_prompt")
        known = plain(ids, self._images) if images else ids
        if not 0 <= min(known) <= max(known) < self._vocabulary.n_tokens:
            raise RefusedPrompt(
                "The prompt holds a token that the model does not have.",
                param=param,
                code="invalid_token",
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """
        Return the text of *ids*.

        Raises:
            RefusedPrompt: one of them is none of the model's.
        """
        self.ids(Tokens(tuple(ids)))
        return str(self._tokenizer.decode(list(ids)))

    def _echo(self, job: Job, ids: list[int]) -> str:
        return job.prompt.text if isinstance(job.prompt, Text) else self.text(ids)

    def _last_turn_at(self, prompt: Prompt, ids: list[int], images: Sequence[ReadImage]) -> int:
        """Return where the text of a chat's last turn begins: from there on, another text differs."""
        if not isinstance(prompt, Chat):
            return 0
        last = prompt.turns[-1]
        text = "#" if not (last.content or "").startswith("#") else "?"
        other = msgspec.structs.replace(last, content=text)
        turns = (*prompt.turns[:-1], other)
        rendered = self._render(prompt)
        differing = self._render(msgspec.structs.replace(prompt, turns=turns))
        begin = _n_alike(rendered.text, differing.text)
        is_known = begin < len(rendered.text)
        n_before = rendered.n_images(begin)
        n_after = len(ids)
        if is_known:
            n_after = len(self._encode_pieces(rendered.pieces(begin), None, images[n_before:]))
        return max(len(ids) - n_after, 0)

    def _overflow(self, n_tokens: int, param: str) -> RefusedPrompt:
        """Return the refusal of a prompt of *n_tokens*, or of far more."""
        fits = f"the model's context holds {self._context_length}, prompt and answer together"
        if self._context_length < self._model_context_length:
            fits = (
                f"the server's memory holds {self._context_length}, prompt and answer together, "
                f"of the {self._model_context_length} of the model's context"
            )
        return RefusedPrompt(
            f"The prompt has {n_tokens} tokens; {fits}.",
            param=param,
            code="context_length_exceeded",
            overflow=(n_tokens, self._context_length - 1),
        )

    def _check_length(self, text: str, limit: int | None, param: str) -> None:
        """Refuse a *text* that is too long whatever its tokens are, before it is encoded."""
        if limit is not None and len(text) > limit * self._vocabulary.max_token_length:
            raise self._overflow(len(text) // self._vocabulary.max_token_length, param)

    def _render(self, chat: Chat) -> RenderedChat:
        if not self._tokenizer.has_chat_template:
            raise RefusedPrompt(
                "This model has no chat template.", param="messages", code="chat_not_supported"
            )
        try:
            return self._template.render(chat)
        except LostTurn as lost:
            role, content = lost.turn.role, lost.turn.content or ""
            raise RefusedPrompt(
                f"The model's chat template leaves out a message of the role {role}, which begins: "
                f"{content[:MAX_QUOTED_LENGTH]}",
                param="messages",
                code="template_refused",
            ) from lost
        except REFUSALS as error:
            reason = str(error)[:MAX_REASON_LENGTH]
            raise RefusedPrompt(
                f"The model's chat template refuses these messages: {reason}",
                param="messages",
                code="template_refused",
            ) from error

    def _encode_pieces(
        self,
        pieces: Iterable[tuple[str, bool]],
        limit: int | None = None,
        images: Sequence[ReadImage] = (),
    ) -> list[int]:
        """Return the token ids of a rendered chat, and no more pieces than it takes to pass the *limit*."""
        literals: dict[str, list[int]] = {}
        ids: list[int] = []
        block, ahead = self._images.block if self._images else "", iter(images)
        for text, is_literal in pieces:
            if not is_literal:
                first, *others = text.split(block) if images else [text]
                ids += self._encode(first)
                for other in others:
                    ids += next(ahead).ids
                    ids += self._encode(other)
            else:
                if text not in literals:
                    literals[text] = self._letters(text)
                ids += literals[text]
            if limit is not None and len(ids) > limit:
                break
        return ids

    def _letters(self, text: str) -> list[int]:
        """Return the ids of *text*, which spells a token, letter by letter as far as that takes."""
        ids = self._encode(text, split_special_tokens=True)
        if self._added.isdisjoint(ids):
            return ids
        return self._encode(text[:1]) + self._encode(text[1:])

    def _encode(
        self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> list[int]:
        return list(
            self._tokenizer.encode(
                text,
                add_special_tokens=add_special_tokens,
                split_special_tokens=split_special_tokens,
            )
        )


def _n_alike(one: str, other: str) -> int:
    """Return how many characters both texts begin with."""
    n = min(len(one), len(other))
    differs = _characters(one[:n]) != _characters(other[:n])
    return int(differs.argmax()) if differs.any() else n


def _characters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _param(prompt: Prompt) -> str:
    """Return the request's field that holds a prompt like this."""
    return "messages" if isinstance(prompt, Chat) else "prompt"
