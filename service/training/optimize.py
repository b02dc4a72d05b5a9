"""An untrained model into a trained one, by MLX's derivatives and optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any, cast

import click
import mlx.core as mx
from mlx import optimizers
from mlx.nn.layers.linear import Linear
from mlx.nn.utils import value_and_grad
from mlx_lm.models import gemma3_text

from service.training.kernels import cross_entropy, numpy_kernels, product
from service.training.tokenizer import CONFIG


def new_model(seed: int) -> gemma3_text.Model:
    """Return an untrained model with tied embeddings, norms at their neutral value."""
    mx.random.seed(seed)
    model = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(CONFIG))
    model.sanitize({})
    for name, module in model.named_modules():
        if isinstance(module, gemma3_text.RMSNorm):
            module.weight = mx.zeros_like(module.weight)
        elif isinstance(module, Linear) and name.endswith(("o_proj", "down_proj")):
            module.weight = module.weight / math.sqrt(2 * CONFIG["num_hidden_layers"])
    mx.eval(model.parameters())
    return model


def train(
    model: gemma3_text.Model,
    batches: Iterator[tuple[mx.array, mx.array, mx.array]],
    n_steps: int,
    peak_rate: float,
) -> None:
    """Train *model* in place for *n_steps* batches, telling the progress every 25."""
    warm_up = min(100, n_steps // 10 + 1)
    rate = optimizers.join_schedules(
        [
            optimizers.linear_schedule(0.0, peak_rate, warm_up),
            optimizers.cosine_decay(peak_rate, n_steps - warm_up, peak_rate / 100),
        ],
        [warm_up],
    )
    clip_slopes: Any = optimizers.clip_grad_norm
    optimizer = optimizers.AdamW(learning_rate=rate, betas=[0.9, 0.98], weight_decay=0.05)

    def loss_of(inputs: mx.array, places: mx.array, targets: mx.array) -> mx.array:
        hidden = model.model(inputs).reshape(-1, CONFIG["hidden_size"])[places]
        logits = product(hidden, model.model.embed_tokens.weight)
        return cast(mx.array, cross_entropy(logits, targets))

    step_fn = value_and_grad(model, loss_of)
    progress = Progress(n_steps)
    with numpy_kernels():
        for inputs, places, targets in batches:
            loss, slopes = step_fn(inputs, places, targets)
            slopes, _ = clip_slopes(slopes, max_norm=1.0)
            optimizer.update(model, slopes)
            mx.eval(model.parameters(), optimizer.state)
            if progress.step(loss.item(), inputs.size) == n_steps:
                return


class Progress:
    """Prints step, loss, tokens per second (padding included) and the time left."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._n_done = 0
        self._n_tokens = 0
        self._loss = 0.0
        self._started_s = time.monotonic()

    def step(self, loss: float, n_tokens: int) -> int:
        """Count one step and return how many are done."""
        self._n_done += 1
        self._n_tokens += n_tokens
        self._loss = loss if self._n_done == 1 else 0.96 * self._loss + 0.04 * loss
        if self._n_done % 25 == 0 or self._n_done == self._n_steps:
            elapsed_s = time.monotonic() - self._started_s
            left_s = elapsed_s / self._n_done * (self._n_steps - self._n_done)
            click.echo(
                f"step {self._n_done}/{self._n_steps}  loss {self._loss:.4f}  "
                f"{self._n_tokens / elapsed_s:.0f} tokens/s  "
                f"{elapsed_s / 60:.1f} min gone, {left_s / 60:.1f} left"
            )
        return self._n_done
