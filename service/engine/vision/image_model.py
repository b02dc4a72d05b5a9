"""
A model of mlx-vlm, such that it reads and answers as any model of mlx-lm does, a row beside others.

Its prompts hold ids of images (`engine/model/images`). The tower looks at an image once, before its first
token is read, and what it saw stands in for the embeddings of these ids.

Some families count the places of an image in two directions, so that what comes after it stands earlier
than as many tokens would have it. How much earlier is a state of each row: the last part of its cache.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from service.catalog.card import UnfitModel
from service.engine.cache.kv import Cache
from service.engine.model.images import FIRST_ID, ReadImage

# Of what mlx-vlm gives for an image; which tokens are the image's is known here.
_KNOWN = {
    "inputs_embeds",
    "position_ids",
    "rope_deltas",
    "visual_pos_masks",
    "deepstack_visual_embeds",
}


@dataclass(frozen=True)
class _Seen:
    """
    What the tower made of an image.

    Attributes:
        features: one vector for each of its tokens, shape (n, hidden).
        shifts: how many places each token stands from where a text's would, shape (3, n).
        jump: the same for all that follows.
        deeper: what is added behind each of the first layers, each of shape (n, hidden).
    """

    features: mx.array
    shifts: mx.array
    jump: int
    deeper: list[mx.array]


@dataclass(frozen=True)
class _Tables:
    """
    All images that are held, one behind the other.

    Attributes:
        features: shape (n, hidden).
        shifts: shape (3, n).
        jumps: what each token adds to the places of all that follow, shape (n,).
        firsts: the first id of each image, ascending, shape (images,).
        rows: what an id of each image less this is its row, shape (images,).
        deeper: what is added behind each of the first layers, each of shape (n, hidden).
    """

    features: mx.array
    shifts: mx.array
    jumps: mx.array
    firsts: mx.array
    rows: mx.array
    deeper: list[mx.array]

    def row_of(self, ids: mx.array) -> mx.array:
        """Return the row of each of *ids*, of any shape; for what is no image, any row."""
        signed = ids.astype(mx.int32)
        place = (signed[..., None] >= self.firsts).sum(axis=-1) - 1
        return mx.clip(signed - self.rows[mx.maximum(place, 0)], 0, self.jumps.shape[0] - 1)


class ImageModel(nn.Module):
    """
    Maps token ids, images' among them, shape (rows, n), and a cache to logits, shape (rows, n, vocabulary).

    Args:
        model: of mlx-vlm.
        token: the id in the vocabulary that stands for each token of an image.
    """

    def __init__(self, model: Any, token: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mlx's stubs
        self.model = model
        self.token = token
        self.counts_places = False
        _add_everywhere(model.language_model)
        self._seen: weakref.WeakKeyDictionary[ReadImage, _Seen] = weakref.WeakKeyDictionary()
        self._laid_out: tuple[tuple[int, ...], _Tables] | None = None

    def make_cache(self) -> Cache:
        """Return an empty cache for one row, of mlx-lm's own parts."""
        language = self.model.language_model
        own = language.make_cache() if hasattr(language, "make_cache") else None
        parts = [_part(each) for each in own or [KVCache() for _ in self.model.layers]]
        return [*parts, ArraysCache(1)] if self.counts_places else parts

    def hold(self, images: Iterable[ReadImage]) -> None:
        """
        Look at *images*, once each; what was seen is kept as long as anybody holds the image.

        Raises:
            UnfitModel: what the tower gives is more than can be read in pieces, or beside others.
        """
        for image in images:
            if image not in self._seen:
                self._seen[image] = self._look(image)

    def _look(self, image: ReadImage) -> _Seen:
        inputs = {
            name: mx.array(value) if isinstance(value, np.ndarray) else value
            for name, value in image.inputs.items()
        }
        found = self.model.get_input_embeddings(
            inputs.pop("input_ids"), inputs.pop("pixel_values"), **inputs
        ).to_dict()
        taken = _KNOWN | _unused(self.model.language_model)
        more = sorted(
            name for name, value in found.items() if value is not None and name not in taken
        )
        if more:
            raise UnfitModel(
                f"mlx-vlm gives more for its images than is read here: {', '.join(more)}"
            )
        ids = np.array(image.ids)
        places = mx.array(np.flatnonzero(ids >= FIRST_ID))
        shifts, jump = mx.zeros((3, image.n_tokens), dtype=mx.int32), 0
        if found["position_ids"] is not None:
            self.counts_places = True
            shifts = found["position_ids"][:, 0].astype(mx.int32) - mx.arange(len(ids))
            shifts, jump = shifts[:, places], int(found["rope_deltas"].item())
        features = found["inputs_embeds"][0, places]
        deeper = list(found["deepstack_visual_embeds"] or ())
        mx.eval(features, shifts, deeper)
        return _Seen(features, shifts, jump, deeper)

    def __call__(self, ids: mx.array, cache: Cache | None = None) -> mx.array:
        """Return the logits behind each of *ids*; the cache takes them in."""
        tables = self._tables()
        is_image = ids >= FIRST_ID
        plain = mx.where(is_image, self.token, ids)
        embeddings = self._embed(plain)
        options: dict[str, Any] = {}
        if tables is not None:
            rows = tables.row_of(ids)
            seen = tables.features[rows].astype(embeddings.dtype)
            embeddings = mx.where(is_image[..., None], seen, embeddings)
            if tables.deeper:
                options["deepstack_visual_embeds"] = [
                    mx.where(is_image[..., None], each[rows], 0).astype(embeddings.dtype)
                    for each in tables.deeper
                ]
        if self.counts_places:
            options["position_ids"] = self._places(ids, is_image, tables, cache)
            cache = None if cache is None else cache[:-1]
        language = self.model.language_model
        logits: mx.array = language(plain, inputs_embeds=embeddings, cache=cache, **options).logits
        return logits

    def _embed(self, ids: mx.array) -> mx.array:
        language = self.model.language_model
        within = language if hasattr(language, "embed_tokens") else language.model
        embeddings: mx.array = within.embed_tokens(ids)
        return embeddings

    def _places(
        self, ids: mx.array, is_image: mx.array, tables: _Tables | None, cache: Cache | None
    ) -> mx.array:
        """Return where each of *ids* stands, shape (3, rows, n), and have the cache know what follows."""
        n_rows, n = ids.shape
        before = mx.array(0 if cache is None else cache[0].offset).reshape(-1, 1)
        shift = cache[-1][0] if cache is not None else None
        if shift is None:
            shift = mx.zeros((n_rows, 1), dtype=mx.int32)
        own = mx.zeros((3, n_rows, n), dtype=mx.int32)
        if tables is not None:
            rows = tables.row_of(ids)
            jumps = mx.where(is_image, tables.jumps[rows], 0)
            own = mx.where(is_image, tables.shifts[:, rows], own)
            passed = mx.cumsum(jumps, axis=1)
            own = own + passed - jumps
            after = shift + passed[:, -1:]
        else:
            after = shift
        if cache is not None:
            cache[-1][0] = after
        return mx.maximum(before + mx.arange(n) + shift + own, 0)

    def _tables(self) -> _Tables | None:
        """Return what was seen of all images that are held; None: there is none."""
        held = sorted(self._seen.items(), key=lambda item: item[0].first)
        if not held:
            self._laid_out = None
            return None
        key = tuple(image.first for image, _ in held)
        if self._laid_out is None or self._laid_out[0] != key:
            self._laid_out = (key, _tables(held))
        return self._laid_out[1]


def _tables(held: list[tuple[ReadImage, _Seen]]) -> _Tables:
    jumps, rows, n = [], [], 0
    for image, seen in held:
        jumps += [0] * (image.n_tokens - 1) + [seen.jump]
        rows.append(image.first - n)
        n += image.n_tokens
    return _Tables(
        mx.concatenate([seen.features for _, seen in held]),
        mx.concatenate([seen.shifts for _, seen in held], axis=1),
        mx.array(jumps, dtype=mx.int32),
        mx.array([image.first for image, _ in held], dtype=mx.int32),
        mx.array(rows, dtype=mx.int32),
        [
            mx.concatenate(list(layer))
            for layer in zip(*(seen.deeper for _, seen in held), strict=True)
        ],
    )


def _unused(language: Any) -> set[str]:
    """Return which masks mlx-vlm makes for an image and then gives no layer of *language*."""
    named = inspect.signature(type(language).__call__).parameters
    return {"attention_mask_4d"} - named.keys()


def _add_everywhere(language: Any) -> None:
    """Have *language* add what the tower saw at every token, where it looks for those of images itself."""
    inner = getattr(language, "model", None)
    own = type(inner)
    if not hasattr(own, "_deepstack_process"):
        return

    def add(_: Any, hidden: mx.array, __: Any, seen: mx.array) -> mx.array:
        return hidden + seen

    inner.__class__ = type(own.__name__, (own,), {"_deepstack_process": add})


def _part(own: Any) -> Any:
    """Return a part of a cache as mlx-lm has it, for one of mlx-vlm's own."""
    name = type(own).__name__
    if name in {"KVCache", "SimpleKVCache"}:
        return KVCache()
    if name == "RotatingKVCache":
        return RotatingKVCache(own.max_size, own.keep)
    raise UnfitModel(f"mlx-vlm keeps its keys and values in a way that is not read here: {name}")
