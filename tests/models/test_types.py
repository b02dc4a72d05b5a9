"""The types that differ most, tried as `python -m tests.models` tries all."""

from __future__ import annotations

import pytest

from tests.models.__main__ import markdown
from tests.models.checks import CHECKS, Row, row_of
from tests.models.types import names

SAMPLE = {
    "llama4": "alone",  # caches in chunks, of which mlx-lm makes no batch
    "mamba": "even",  # a state that padding moves, as jamba's and rwkv7's
    "qwen3_next": "padded",  # gated delta nets beside attention
    "gpt_oss": "padded",  # attention sinks, windows, experts
    "gemma2": "padded",  # scores in groups, for which mlx-lm's masks of batches lack an axis
    "gemma3n": "padded",  # layers that share keys and values
    "deepseek_v3": "padded",  # latent attention
    "mistral3": "padded",  # a text model inside of another
}


@pytest.mark.parametrize("model_type", SAMPLE)
def test_type_is_right(model_type: str) -> None:
    """It loads and answers, the same in every way of serving; what it can't have is refused in words."""
    row = row_of(model_type)

    assert row.is_right, row
    assert SAMPLE[model_type] == row.batching


def test_every_type_has_a_name() -> None:
    """Models under their own names and under others; what is only a part of models is none."""
    found = names()

    assert {"llama", "mistral", "qwen3_5_moe", "falcon_mamba", "lfm2-vl"} <= set(found)
    assert not {"cache", "base", "rope_utils", "switch_layers"} & set(found)


def test_table_tells_what_is_wrong() -> None:
    """A row is right without a fault; what can't be had is none; each is told below the table."""
    right = Row("llama", "llama", "padded", dict.fromkeys(CHECKS, "yes"))
    refused = Row("gpt_oss", "gpt-oss", "padded", right.seen | {"kv_bits": "none: it has sinks"})
    wrong = Row("martian", seen={"loads": "no: nobody knows it"})
    page = markdown([right, refused, wrong])

    assert (True, True, False) == (right.is_right, refused.is_right, wrong.is_right)
    assert "2 of 3 types are right" in page
    assert "- `gpt_oss`, kv_bits: it has sinks" in page
    assert "- `martian`, loads: nobody knows it" in page
