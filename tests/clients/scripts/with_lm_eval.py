"""EleutherAI's evaluation harness, over `/v1/completions`, on tasks made on the spot."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HOME"] = f"{sys.prefix}/cache"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
from lm_eval.tasks import TaskManager
from steps import API, MODEL, Steps

FOLDER = Path(sys.prefix, "tasks")
MODEL_FOLDER = Path(__file__).parents[3] / "service" / "catalog" / "embedded"
TOKENIZER = {
    "tokenizer_backend": "huggingface",
    "tokenizer": str(MODEL_FOLDER),
    "max_length": 1024,
}
ITEMS = [
    ("GET /health tells whether the server", ["can serve", "eats fish", "went to Rome"], 0),
    ("200 when the model is healthy, 503 when it is", ["a blue horse", "not ready"], 1),
    ("The base URL is http://127.0.0.1:8000", ["zebra", "/v1"], 1),
]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "generation": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
FOLDER.mkdir(exist_ok=True)
DATA = FOLDER / "items.jsonl"
DATA.write_text(
    "".join(json.dumps({"text": t, "choices": c, "answer": a}) + "\n" for t, c, a in ITEMS), "utf-8"
)
for name, task in TASKS.items():
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(DATA)}},
        "test_split": "test",
        "doc_to_text": "" if name == "perplexity" else "{{text}}",
        **task,
    }
    (FOLDER / f"{name}.yaml").write_text(json.dumps(whole), "utf-8")

step = Steps("lm_eval")


def measure(
    task: str, model: str = "local-completions", route: str = "completions", **more: object
) -> tuple[dict[str, float], list[dict[str, object]]]:
    """Return the results of *task*, and its samples."""
    found = lm_eval.simple_evaluate(
        model=model,
        model_args={"model": MODEL, "base_url": f"{API}/{route}", "max_retries": 1, **more},
        tasks=[task],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=route != "completions",
    )
    return found["results"][task], found["samples"][task]


@step
def multiple_choice_by_loglikelihood() -> str:
    results, _ = measure("choices", **TOKENIZER)
    assert results["acc,none"] == 1
    return f"accuracy {results['acc,none']}"


@step
def several_prompts_at_once() -> str:
    results, _ = measure("choices", **TOKENIZER, batch_size=4, num_concurrent=2)
    assert results["acc,none"] == 1
    return f"accuracy {results['acc,none']}"


@step
def rolling_loglikelihood() -> str:
    results, _ = measure("perplexity", **TOKENIZER)
    assert 1 < results["word_perplexity,none"] < 1000
    return f"perplexity {results['word_perplexity,none']:.1f} a word"


@step
def generate_until() -> str:
    _, samples = measure("generation", **TOKENIZER)
    answers = [sample["resps"][0][0].strip() for sample in samples]
    assert answers[0].startswith("can serve")
    return " | ".join(answers)


@step
def generate_until_by_chat() -> str:
    _, samples = measure("generation", "local-chat-completions", "chat/completions")
    answers = [sample["resps"][0][0] for sample in samples]
    assert all(answers)
    return " | ".join(answers)
