"""Small models that see, of random weights, by mlx-vlm, where the extra that brings it is installed."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest

if importlib.util.find_spec("mlx_vlm") is None:
    pytest.skip("the extra vision is not installed", allow_module_level=True)

from mlx_vlm.generate import generate_step
from mlx_vlm.utils import load_model, load_processor
from PIL import Image

from service.engine import check
from service.engine.scheduler.scheduler import Batching
from service.engine.start import Started, prove, start
from service.engine.text.prompt import RefusedPrompt
from service.engine.vision.load import load_vision
from service.protocol import Chat, Job, Load, Sampling, Turn
from tests.models.small_vision import TYPES, make

MARK = "f00dcafe."
N_TOKENS = 16


def png(color: str, width: int = 90, height: int = 60) -> bytes:
    """Return an image of one color."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


RED, BLUE = png("red"), png("blue", 60, 120)


class Tried:
    """A small model as the engine has it, and its folder."""

    def __init__(self, folder: Path, model_type: str) -> None:
        make(model_type, folder)
        self.folder = folder
        order = Load(str(folder), None, 4, warmup=True, log_level="INFO", prefix_cache_mb=64)
        self.order = msgspec.structs.replace(order, model_type="multimodal")
        self.started: Started = start(load_vision(self.order), self.order)
        assert prove(self.started, self.order).error is None

    def answers(self, *jobs: Job) -> list[tuple[list[int], int]]:
        """Return the tokens of answers to *jobs* at once, and how much of each prompt was known."""
        scheduler = self.started.scheduler
        for i, job in enumerate(jobs):
            scheduler.add(i, self.started.preparer.prepare(job), job)
        tokens: dict[int, list[int]] = {i: [] for i in range(len(jobs))}
        n_cached = dict.fromkeys(tokens, 0)
        while scheduler.tickets:
            output = scheduler.step()
            assert not output.failures
            for delta in output.deltas:
                tokens[delta.ticket] += [one.chosen.id for one in delta.logprobs]
                n_cached[delta.ticket] = delta.spent.n_cached_tokens if delta.spent else 0
        return [(tokens[i], n_cached[i]) for i in tokens]

    def bare(self, *parts: str | bytes) -> list[int]:
        """Return mlx-vlm's own greedy tokens for one turn of *parts*."""
        model, processor = (
            load_model(self.folder),
            load_processor(self.folder, add_detokenizer=False),
        )
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        text = processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        files = [io.BytesIO(part) for part in parts if isinstance(part, bytes)]
        images = [Image.open(file).convert("RGB") for file in files]
        made = processor(text=[text], images=images, add_special_tokens=False)
        inputs = {name: mx.array(np.array(value)) for name, value in made.items()}
        ids, pixels = inputs.pop("input_ids"), inputs.pop("pixel_values")
        mask = inputs.pop("attention_mask")
        steps: Any = generate_step(
            ids, model, pixels, mask, max_tokens=N_TOKENS, temperature=0.0, **inputs
        )
        return [int(token) for token, _ in steps][:N_TOKENS]


def asked(*parts: str | bytes, **options: Any) -> Job:
    """Return a job that asks one turn of *parts*, greedily."""
    content = "".join(part if isinstance(part, str) else MARK for part in parts)
    images = tuple(part for part in parts if isinstance(part, bytes))
    chat = Chat((Turn("user", content),), images=images, image_mark=MARK)
    wanted = {"max_tokens": N_TOKENS, "ignore_eos": True, "top_logprobs": 0} | options
    return Job(chat, Sampling(temperature=0.0), **wanted)


@pytest.fixture(scope="module", params=TYPES)
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """A model of each type."""
    return Tried(tmp_path_factory.mktemp(request.param) / request.param, request.param)


ONE = (RED, "What is this?")
TWO = ("Compare ", RED, " with ", BLUE, "!")


def test_answers_are_those_of_mlx_vlm(tried: Tried) -> None:
    """One image or several, the same greedy tokens."""
    for parts in (ONE, TWO):
        assert tried.answers(asked(*parts))[0][0] == tried.bare(*parts)


def test_answers_are_the_same_beside_others(tried: Tried) -> None:
    """With and without images, in one batch."""
    jobs = [asked(*ONE), asked(*TWO), asked("Hello there"), asked(BLUE, "And this?")]
    alone = [tried.answers(job)[0][0] for job in jobs]
    tried.started.scheduler.reset()

    assert tried.started.scheduler.batching is Batching.PADDED
    assert [tokens for tokens, _ in tried.answers(*jobs)] == alone


def test_image_that_was_seen_is_known(tried: Tried) -> None:
    """The same prompt comes out of the prefix cache; another image in its place does not."""
    tried.started.scheduler.reset()
    n_prompt = len(tried.started.preparer.prepare(asked(*ONE)).ids)
    first, _ = tried.answers(asked(*ONE))[0]
    again, n_cached = tried.answers(asked(*ONE))[0]
    other, n_of_other = tried.answers(asked(png("lime"), ONE[1]))[0]

    assert again == first
    assert n_cached == n_prompt - 1
    assert n_of_other < n_prompt / 2
    assert other != first


def test_images_move_the_answer(tried: Tried) -> None:
    """A red and a blue one of the same size."""
    red, blue = (tried.answers(asked(png(color), "Color?"))[0][0] for color in ("red", "blue"))

    assert red != blue


def test_spelling_of_an_image_is_text(tried: Tried) -> None:
    """A user who writes what the template writes for an image has written letters."""
    loaded = load_vision(tried.order)
    assert loaded.images is not None
    spelled = tried.started.preparer.prepare(asked(loaded.images.block, RED, " x"))

    assert len(spelled.images) == 1
    assert spelled.ids.count(loaded.images.token) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", "no image of a kind"),
        (RED[:60], "broken"),
        (b"", "no image of a kind"),
        (png("red", 4000, 1), "hardly an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a kind"),
    ],
)
def test_what_is_no_image_is_refused(tried: Tried, data: bytes, reason: str) -> None:
    """It is told which one, and why."""
    with pytest.raises(RefusedPrompt) as refused:
        tried.started.preparer.prepare(asked(RED, data, "?"))

    assert refused.value.code == "invalid_image"
    assert "Image 2" in refused.value.message
    assert reason in refused.value.message


def test_bomb_is_not_unpacked(tried: Tried) -> None:
    """A small file of very many pixels is refused by its head."""
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 100_000
    with pytest.raises(RefusedPrompt, match="pixels"):
        tried.started.preparer.prepare(asked(file.getvalue(), "?"))


def test_model_is_looked_at_before_it_is_served(tried: Tried) -> None:
    """`tier3a check` opens it as the engine does."""
    seen = dict(check.seen(msgspec.structs.replace(tried.order, model_type="auto")))

    assert seen["kind"].startswith("multimodal: language model that takes images")
    assert seen["room"].startswith("for ")
