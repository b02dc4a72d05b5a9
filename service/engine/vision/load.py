"""A model that sees, from its files into memory: by mlx-vlm, whose extra brings it."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import mlx.nn as nn
from PIL import Image

from service.catalog.card import UnfitModel, read_card
from service.engine.model.images import UnreadableImage
from service.engine.model.load import (
    LoadedModel,
    check_code,
    check_numbers,
    check_template,
    check_weights,
    class_defaults,
    locate,
    open_tokenizer,
    read_template,
    sampling_defaults,
)
from service.engine.text.chat_template import image_block
from service.engine.vision.image_model import ImageModel
from service.engine.vision.reader import Reader
from service.protocol import Load

_log = logging.getLogger(__name__)

_SIDE = 64  # pixels of the image that is tried


def load_vision(order: Load) -> LoadedModel:
    """
    Load the model that *order* names, which is on disk already, as one that takes images.

    Raises:
        UnfitModel: the model can't be served; the message says why and is fit for `/readyz`.
    """
    model_id, folder = locate(order.model_path, with_code=order.trust_remote_code)
    template = read_template(order.chat_template)
    if not order.trust_remote_code:
        check_code(folder)
    check_weights(folder)
    card = read_card(
        folder,
        order.model_id or model_id,
        order.context_length,
        int(time.time()),
        template,
        class_defaults(folder),
        "multimodal",
    )
    model, processor = _opened(folder)
    tokenizer = open_tokenizer(folder, model.config.eos_token_id, order, template)
    if template is not None:
        check_template(tokenizer)
    elif not tokenizer.has_chat_template:
        tokenizer.chat_template = processor.chat_template
    token = _token(model)
    block = image_block(tokenizer)
    if not block:
        raise UnfitModel("its chat template takes no images")
    loaded = ImageModel(model, token)
    check_numbers(loaded)
    reader = Reader(processor, block, token, order.max_image_pixels)
    _try(loaded, reader)
    return LoadedModel(loaded, tokenizer, card, sampling_defaults(folder), reader)


def _opened(folder: Path) -> tuple[nn.Module, Any]:
    """Return the model in *folder* and its processor, as mlx-vlm makes them."""
    from mlx_vlm.utils import load_model, load_processor  # only here: it is an extra

    try:
        return load_model(folder), load_processor(folder, add_detokenizer=False)
    except Exception as error:
        _log.exception("the model cannot be loaded")
        raise UnfitModel(
            f"mlx-vlm could not load it ({type(error).__name__}); see the log"
        ) from error


def _token(model: Any) -> int:
    """Return the id that stands for each token of an image."""
    for name in ("image_token_id", "image_token_index"):
        token = getattr(model.config, name, None)
        if isinstance(token, int):
            return token
    raise UnfitModel("its config.json names no token that stands for an image")


def _try(model: ImageModel, reader: Reader) -> None:
    """See that an image can be read, which also tells how the model counts places."""
    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), "gray").save(file, "PNG")
    try:
        model.hold([reader.read(file.getvalue())])
    except (UnfitModel, UnreadableImage):
        raise
    except Exception as error:  # whatever a tower makes of its own weights
        _log.exception("the tower does not run")
        raise UnfitModel(f"its tower does not run ({type(error).__name__}); see the log") from error
