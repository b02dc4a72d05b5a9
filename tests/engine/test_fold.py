"""What is computed once instead of in every step."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gemma2
from mlx_lm.utils import load as load_as_it_is

from service.catalog.card import EMBEDDED_FOLDER
from service.engine.model.fold import fold_norms
from service.engine.model.load import LoadedModel
from tests.engine import random_models

IDS = mx.array([[5, 6, 7, 8]])


def _gemma2() -> gemma2.Model:
    mx.random.seed(7)
    made = gemma2.Model(
        gemma2.ModelArgs(
            model_type="gemma2",
            hidden_size=64,
            num_hidden_layers=2,
            intermediate_size=96,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            rms_norm_eps=1e-6,
            vocab_size=128,
            query_pre_attn_scalar=32,
        )
    )
    made.set_dtype(mx.bfloat16)
    return made


def test_norms_that_add_one_are_folded() -> None:
    """All of them, and what the model says stays the same to the bit, also in half precision."""
    model = _gemma2()
    before = model(IDS)

    assert 2 * 4 + 1 == fold_norms(model)
    assert mx.array_equal(before, model(IDS))
    assert fold_norms(model) == 0


@pytest.mark.parametrize("kind", ["full", "state"])
def test_other_norms_stay(kind: str) -> None:
    """A model whose norms add nothing is left as it is."""
    assert fold_norms(random_models.model(kind)) == 0


def test_damaged_weights_stay() -> None:
    """Norms that compute no numbers are left for the check that refuses such a model."""
    model = _gemma2()
    model.model.norm.weight = mx.full(64, mx.nan)

    assert fold_norms(model) == 2 * 4


def test_other_norms_of_the_name_stay() -> None:
    """A norm that is called the same and computes something else is left as it is."""

    class RMSNorm(nn.RMSNorm):
        """It adds two."""

        def __call__(self, x: mx.array) -> mx.array:
            return mx.fast.rms_norm(x, 2.0 + self.weight, self.eps)

    model = nn.Sequential(RMSNorm(8))  # type: ignore[no-untyped-call]  # mlx's stubs

    assert fold_norms(model) == 0


def test_model_is_loaded_with_them(loaded: LoadedModel) -> None:
    """The server's model has nothing left to fold, and says what mlx-lm's own says."""
    as_it_is, *_ = load_as_it_is(str(EMBEDDED_FOLDER))

    assert fold_norms(loaded.model) == 0
    assert mx.array_equal(as_it_is(IDS), loaded.model(IDS))
