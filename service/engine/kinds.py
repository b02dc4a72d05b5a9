"""Which way a model is loaded, by its kind."""

from __future__ import annotations

import importlib.util
import logging

from service.catalog.card import UnfitModel
from service.catalog.kind import kind_of
from service.engine.model.load import LoadedModel, load, locate, open_model
from service.protocol import Load, ModelKind

_log = logging.getLogger(__name__)

NEEDS_VISION = "it takes images, for which pip install 'mlx-tier3a[vision]' brings what is needed"


def kind(order: Load) -> ModelKind:
    """
    Return what the model is served as, by its own files where *order* leaves it to them.

    Raises:
        UnfitModel: there is none, or its `config.json` is unreadable.
    """
    return kind_of(locate(order.model_path)[1], order.model_type)


def load_generating(order: Load, *, is_looked_at: bool = False) -> LoadedModel:
    """
    Load a model that answers, which is on disk already.

    Args:
        order: what the engine was told.
        is_looked_at: it isn't to answer, so weights need not be read.

    Raises:
        UnfitModel: it can't be served; the message says why and is fit for `/readyz`.
    """
    if kind(order) != "multimodal":
        return open_model(order, is_lazy=True) if is_looked_at else load(order)
    try:
        if importlib.util.find_spec("mlx_vlm") is None:
            raise UnfitModel(NEEDS_VISION)
        from service.engine.vision.load import load_vision  # only here: it is an extra's

        return load_vision(order)
    except UnfitModel as error:
        if order.model_type != "auto":
            raise
        _log.warning("its texts are served, and no images: %s", error)
        return load(order)
