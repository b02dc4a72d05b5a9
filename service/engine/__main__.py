"""
The engine process: `python -m service.engine FD`, started by the supervisor and by nobody else.

Threads: the main thread owns MLX and everything made with it; a reader takes messages off the socket;
one worker turns chats into token ids; the heart tells that they get on. The process ends when the
socket's other end does.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from service.catalog import source
from service.catalog.card import UnfitModel
from service.engine.channel import Channel
from service.engine.pulse import Pulse, start
from service.protocol import Load

_log = logging.getLogger("service.engine")


def main() -> None:
    """Take the order, load the model, serve until the API process is gone."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    order = next(channel.messages(), None)
    if not isinstance(order, Load):
        return
    logging.basicConfig(
        level=order.log_level,
        format="%(asctime)s | %(levelname)s | engine: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    for noisy in ("httpx", "httpcore", "transformers", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # Both are read once, when the libraries are imported.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the API process tells it
    try:
        if not any(isinstance(each, source.HubModel) for each in sources(order)):
            os.environ["HF_HUB_OFFLINE"] = "1"  # what is on disk is never asked for on the network
    except UnfitModel as error:  # told now, and not after seconds of imports
        channel.refuse(error)
        return

    pulse = Pulse()
    start(channel, pulse, order.stall_timeout_s)

    from service.engine.loop import serve  # only now: it imports MLX and transformers

    serve(channel, order, pulse=pulse)


def sources(order: Load) -> list[Path | source.HubModel]:
    """
    Return where the models come from that *order* names.

    Raises:
        UnfitModel: a name can be no model's.
    """
    named = (
        (order.model_path, "MODEL_PATH"),
        (order.draft_model, "DRAFT_MODEL"),
        (order.adapter_path, "ADAPTER_PATH"),
    )
    return [source.of(path, setting) for path, setting in named if path is not None]


if __name__ == "__main__":
    main()
