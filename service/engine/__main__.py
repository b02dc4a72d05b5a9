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
    if order.model_path is None or Path(order.model_path).expanduser().is_dir():
        # Read once, when the libraries are imported: what is on disk is never asked for on the network.
        os.environ["HF_HUB_OFFLINE"] = "1"

    pulse = Pulse()
    start(channel, pulse, order.stall_timeout_s)

    from service.engine.loop import serve  # only now: it imports MLX and transformers

    serve(channel, order, pulse=pulse)


if __name__ == "__main__":
    main()
