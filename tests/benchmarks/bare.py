"""
The bare BatchGenerator on the same prompts, in a process of its own: what the server is measured against.

Reads a number of prompts per line from standard input and answers with tokens per second.
"""

from __future__ import annotations

import sys
import time

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences

from service.engine.load import load
from service.engine.prompt import Prompter
from service.engine.vocabulary import Vocabulary
from service.protocol import Chat, Load, Turn
from tests.benchmarks.load import N_TOKENS, PROMPTS


def main() -> None:
    """Load the embedded model once, then generate for each line."""
    loaded = load(Load(None, None, max_concurrency=8, warmup=False, log_level="INFO"))
    vocabulary = Vocabulary(loaded.tokenizer, loaded.model(mx.array([[0]])).shape[-1])
    prompter = Prompter(loaded.tokenizer, loaded.card.context_length, vocabulary)
    prompts = [prompter.ids(Chat((Turn("user", text),))) for text in PROMPTS]
    print("ready", flush=True)
    for line in sys.stdin:
        n = int(line)
        generator = BatchGenerator(loaded.model, completion_batch_size=8, prefill_batch_size=8)
        began_s = time.perf_counter()
        generator.insert(
            [list(prompt) for prompt in prompts[:n]],
            max_tokens=[N_TOKENS] * n,
            stop_sequences=[StopSequences()] * n,
        )
        n_tokens = 0
        while n_tokens < n * N_TOKENS:
            n_tokens += len(generator.next()[1])
        print(n_tokens / (time.perf_counter() - began_s), flush=True)


if __name__ == "__main__":
    main()
