"""
The bare BatchGenerator in a process of its own: what servers are measured against.

Started with a model's folder. Each line of standard input is a list of conversations, each with the longest
answer that it may get; they are answered greedily and all at once. Each line of output has, for each of
them, when its tokens came, in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.utils import load


def main() -> None:
    """Load the model once, then generate for each line."""
    model, tokenizer, *_ = load(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        began_s = time.perf_counter()
        asked = json.loads(line)
        prompts = [ids(tokenizer, one["messages"]) for one in asked]
        seen = generate(model, prompts, [one["n_tokens"] for one in asked])
        print(json.dumps([[at_s - began_s for at_s in times] for times in seen]), flush=True)


def ids(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    """Return the tokens of a conversation, as the model's template has it."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


def generate(model: Any, prompts: list[list[int]], n_tokens: list[int]) -> list[list[float]]:
    """Return for each prompt when its tokens came; none of them ends an answer."""
    generator = BatchGenerator(model, completion_batch_size=len(prompts))
    uids = generator.insert(
        prompts, max_tokens=n_tokens, stop_sequences=[StopSequences()] * len(prompts)
    )
    times: dict[int, list[float]] = {uid: [] for uid in uids}
    n_left = sum(n_tokens)
    while n_left:
        responses = generator.next()[1]
        now_s = time.perf_counter()
        for response in responses:
            times[response.uid].append(now_s)
        n_left -= len(responses)
    generator.close()
    return list(times.values())


if __name__ == "__main__":
    main()
