"""From the bytes of an image to what a model's tower takes; runs on the text worker."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import OrderedDict
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.engine.model.images import FIRST_ID, LAST_ID, ReadImage, UnreadableImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # those that OpenAI and Anthropic name
MAX_KEPT = 16  # images that a chat's next turn finds as they are: memory for some of them (taste)
MAX_SIDE_RATIO = 200  # what processors of several families can't take beyond


class Reader:
    """
    Reads images for one model; for one thread.

    Args:
        processor: of the model's own files; makes ids and arrays of a text and an image.
        block: what the chat template puts where an image stands.
        token: the id that stands for each token of an image.
        max_pixels: most pixels of an image.
    """

    def __init__(self, processor: Any, block: str, token: int, max_pixels: int) -> None:
        self.block = block
        self.token = token
        self._processor = processor
        self._max_pixels = max_pixels
        self._next_id = FIRST_ID
        self._kept: OrderedDict[bytes, ReadImage] = OrderedDict()

    def read(self, data: bytes) -> ReadImage:
        """
        Return an image, which is *data* as a file holds it; one that was read of late is the same again.

        Raises:
            UnreadableImage: it is none of the formats known here, broken, or too large.
        """
        digest = hashlib.sha256(data).digest()
        if digest not in self._kept:
            self._kept[digest] = self._read(self._decoded(data))
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def _decoded(self, data: bytes) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sizes that are refused below
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > self._max_pixels:
                raise UnreadableImage(
                    f"it has {width} x {height} pixels, more than {self._max_pixels:,}"
                )
            if max(width, height) > MAX_SIDE_RATIO * min(width, height):
                raise UnreadableImage(f"it has {width} x {height} pixels, which is hardly an image")
            return ImageOps.exif_transpose(image).convert("RGB")
        except UnidentifiedImageError as error:
            known = ", ".join(FORMATS)
            raise UnreadableImage(f"it is no image of a kind read here: {known}") from error
        except UnreadableImage:
            raise
        except Exception as error:  # whatever a decoder makes of a broken file
            raise UnreadableImage(f"it is broken ({type(error).__name__})") from error

    def _read(self, image: Image.Image) -> ReadImage:
        try:
            made = self._processor(text=[self.block], images=[image], add_special_tokens=False)
        except (
            Exception
        ) as error:  # whatever a model's processor makes of a shape that it doesn't like
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise UnreadableImage(f"the model's processor can't take it ({reason})") from error
        inputs = {name: _array(value) for name, value in made.items() if value is not None}
        ids = [int(i) for i in np.asarray(inputs.pop("input_ids")).reshape(-1)]
        n_tokens = ids.count(self.token)
        first = self._next_id
        if first + n_tokens > LAST_ID:  # some seven million images later
            self._kept.clear()
            first = FIRST_ID
        self._next_id = first + n_tokens
        own = iter(range(first, first + n_tokens))
        named = tuple(next(own) if i == self.token else i for i in ids)
        inputs["mask"] = inputs.pop("attention_mask", np.ones((1, len(ids)), dtype=np.int32))
        return ReadImage(named, first, n_tokens, {"input_ids": np.array([ids]), **inputs})


def _array(value: Any) -> Any:
    """Return *value* as NumPy has it: MLX's arrays are of the thread that makes them."""
    return np.array(value) if isinstance(value, mx.array) else value
