"""From a job to what the model begins with: a prompt, and a mask for the answer; no thread of MLX's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mlx_lm.tokenizer_utils import TokenizerWrapper

from service.engine.constrain.compile import GrammarCompiler, UnfitGrammar
from service.engine.constrain.prover import Prover
from service.engine.constrain.token_mask import LastingMask
from service.engine.model.images import ImageReader
from service.engine.model.vocabulary import Vocabulary
from service.engine.text.prompt import Prepared, Prompter, RefusedPrompt, TokenMask
from service.protocol import Job, Prompt


class Preparer:
    """
    Prepares the jobs of one model, and answers questions about its tokens.

    Args:
        tokenizer: the model's own, with its chat template.
        context_length: longest prompt and answer together, in tokens.
        vocabulary: the model's tokens.
        allow_grammars: requests may bring grammars of their own.
        window: of prompts as long or longer, find where a chat's last turn begins.
        model_context_length: what the model could do with more memory; None: it can do no more.
        prover: tries each grammar before it is compiled; None: nobody does.
        images: reads images; None: the model takes none.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        context_length: int,
        vocabulary: Vocabulary,
        *,
        allow_grammars: bool = False,
        window: float = math.inf,
        model_context_length: int | None = None,
        prover: Prover | None = None,
        images: ImageReader | None = None,
    ) -> None:
        self._prompter = Prompter(
            tokenizer,
            context_length,
            vocabulary,
            window=window,
            model_context_length=model_context_length,
            images=images,
        )
        self._compiler = GrammarCompiler(
            tokenizer, vocabulary, allow_grammars=allow_grammars, prover=prover
        )
        self._vocabulary = vocabulary
        self._turn_ends = sorted(tokenizer.eos_token_ids)

    def prepare(self, job: Job) -> Prepared:
        """
        Return *job* as the model can begin it; its prompt leaves room for at least one token.

        Raises:
            RefusedPrompt: the prompt can't be made or is too long, a token id is none of the model's,
                or the form that the answer shall have can't be followed.
        """
        return self.constrained(job, self.prompt(job))

    def prompt(self, job: Job) -> Prepared:
        """
        Return the prompt of *job*, its answer free as yet; it leaves room for at least one token.

        Raises:
            RefusedPrompt: the prompt can't be made or is too long, or a token id is none of the model's.
        """
        prepared = self._prompter.prepare(job)
        for i, _ in job.sampling.logit_bias:
            if i >= self._vocabulary.n_logits:
                raise RefusedPrompt(
                    f"The model has no token {i}.", param="logit_bias", code="invalid_token"
                )
        return prepared

    def is_compiled(self, job: Job) -> bool:
        """Tell whether the form of the answer to *job* is known already, or free."""
        return self._compiler.is_compiled(job)

    def constrained(self, job: Job, prepared: Prepared) -> Prepared:
        """
        Return *prepared*, the prompt of *job*, with the mask that its answer shall have.

        Raises:
            RefusedPrompt: the form that the answer shall have can't be followed.
        """
        return replace(prepared, token_mask=self._token_mask(job, prepared))

    def ids(self, prompt: Prompt, limit: int | None = None) -> list[int]:
        """
        Return the token ids of *prompt*, at least one.

        Raises:
            RefusedPrompt: the prompt can't be made, or is longer than the *limit*.
        """
        return self._prompter.ids(prompt, limit)

    def pieces(self, ids: Sequence[int]) -> tuple[bytes, ...]:
        """Return the text of each of *ids* as bytes."""
        return tuple(map(self._vocabulary.piece, ids))

    def text(self, ids: Sequence[int]) -> str:
        """
        Return the text of *ids*.

        Raises:
            RefusedPrompt: one of them is none of the model's.
        """
        return self._prompter.text(ids)

    def _token_mask(self, job: Job, prepared: Prepared) -> TokenMask | None:
        form = self._form(job, prepared)
        if not job.min_tokens or (job.ignore_eos and form is None):
            return form
        return LastingMask(form, job.min_tokens, self._turn_ends)

    def _form(self, job: Job, prepared: Prepared) -> TokenMask | None:
        try:
            return self._compiler.token_mask(job, is_thinking=prepared.is_thinking)
        except UnfitGrammar as error:
            raise RefusedPrompt(
                f"The answer can't be held to this form: {error.message}",
                param=error.param,
                code="invalid_json_schema" if error.is_schema else "invalid_grammar",
            ) from error
