"""
`tier3a check`: a model looked at as it would be served, in a process that ends after it.

Its order comes on standard input, and what was seen goes to standard output. Weights are opened and not
read, so that a model which has no room here can be looked at as well.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from service.catalog import source
from service.catalog.card import KINDS, UnfitModel, read_json
from service.engine.cache.kv import Caches
from service.engine.cache.machine import usable_bytes
from service.engine.cache.memory_plan import RESERVE
from service.engine.embed.load import load_encoder
from service.engine.kinds import kind, load_generating
from service.engine.model import hub
from service.engine.model.load import LoadedModel, locate, size_bytes
from service.engine.text.call_format import formats
from service.protocol import GENERATING, Load

MB = 1_000_000
EXAMPLE_TOKENS = 1000


def main() -> None:
    """Look at the model, say what is seen, and end with 0 if it can be served, else with 1."""
    logging.disable(logging.CRITICAL)  # what matters is said below
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    try:
        for name, words in seen(order):
            print(f"{name:<10}{words}", flush=True)
    except UnfitModel as error:
        print(f"{'verdict':<10}it can't be served: {error}", flush=True)
        sys.exit(1)
    print(f"{'verdict':<10}it can be served")


def seen(order: Load) -> Iterator[tuple[str, str]]:
    """
    Yield what there is to know of a model before it is served, a name and its words each.

    Raises:
        UnfitModel: it can't be served; what was seen until then stands.
    """
    if order.model_path is not None:
        yield from _to_download(order.model_path)
    model_id, folder = locate(order.model_path)
    yield "model", model_id
    yield "folder", str(folder)
    found = kind(order)
    own_type = (read_json(folder / "config.json") or {}).get("model_type")
    yield "kind", f"{found}: {KINDS[found]}, of type {own_type}"
    if found not in GENERATING:
        yield from _encoder(order)
        return
    loaded = load_generating(order, is_looked_at=True)
    bits = loaded.card.quantization_bits
    weights_bytes = size_bytes(loaded.model)
    yield "weights", f"{weights_bytes / MB:,.1f} MB" + (f", {bits}-bit" if bits else "")
    yield "template", _abilities(loaded)
    for note in loaded.card.notes:
        yield "note", note
    yield from _memory(loaded, order, weights_bytes)


def _encoder(order: Load) -> Iterator[tuple[str, str]]:
    """Yield what there is to know of a model that only reads."""
    loaded = load_encoder(order)
    yield "weights", f"{size_bytes(loaded.model) / MB:,.1f} MB"
    yield "context", f"{loaded.card.context_length:,} tokens"
    yield "memory", f"{usable_bytes() / MB:,.0f} MB on this machine"


def _to_download(model_path: str) -> Iterator[tuple[str, str]]:
    """Yield how much has to be downloaded first, and go no further if something has."""
    found = source.of(model_path)
    if not isinstance(found, source.HubModel) or not found.may_be_asked_for:
        return
    if hub.cached(found, hub.WANTED_FILES) is None:
        n_bytes = hub.n_missing_bytes(found, hub.WANTED_FILES)
        yield "model", found.id
        yield (
            "download",
            f"{n_bytes / MB:,.0f} MB; this machine has {usable_bytes() / MB:,.0f} MB of memory",
        )
        raise UnfitModel("it is not on this machine yet; to serve it downloads it first")


def _abilities(loaded: LoadedModel) -> str:
    """Return what the chat template can do."""
    card = formats(loaded.tokenizer).confirmed(loaded.card)
    if not card.has_chat_template:
        return "none: completions are served, chats are refused"
    tools = "takes tools" if card.knows_tools else "takes no tools"
    if card.knows_tools and not card.knows_calls:
        tools += ", but the notation of its calls is unknown"
    return f"{tools}; {'thinks' if card.knows_thinking else 'does not think'}"


def _memory(loaded: LoadedModel, order: Load, weights_bytes: int) -> Iterator[tuple[str, str]]:
    """Yield what the context takes and what of it has room here; what a step takes is not counted."""
    caches = Caches(loaded.model, order.kv_bits, order.max_kv_size)
    longest, usable = loaded.card.context_length, usable_bytes()
    each = caches.n_bytes(2 * EXAMPLE_TOKENS) - caches.n_bytes(EXAMPLE_TOKENS)
    yield "context", f"{longest:,} tokens; {EXAMPLE_TOKENS:,} of them take {each / MB:,.1f} MB"
    left = int(usable * (1 - RESERVE)) - weights_bytes
    yield (
        "memory",
        (
            f"{usable / MB:,.0f} MB on this machine, {max(left, 0) / MB:,.0f} MB of them for contexts "
            f"({RESERVE:.0%} stay free)"
        ),
    )
    if left < 0:
        raise UnfitModel("its weights have no room in this machine's memory")
    fits = bisect_right(range(longest + 1), left, key=caches.n_bytes) - 1
    n_full = left // max(caches.n_bytes(longest), 1)
    if fits < longest:
        yield "room", f"for one request of {fits:,} tokens: the context would be cut to that"
    else:
        yield "room", f"for {n_full:,} requests of {longest:,} tokens at once"


if __name__ == "__main__":
    main()
