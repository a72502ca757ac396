"""lm-evaluation-harness, with a task of its own in a file: by chat, and by texts that go on."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"OPENAI_API_KEY": os.environ["API_KEY"], "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
KEPT = tempfile.TemporaryDirectory()  # what datasets keeps of the task
os.environ["HF_HOME"] = KEPT.name

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from uses import URL, try_all  # noqa: E402

PROBLEMS = Path(KEPT.name) / "problems.jsonl"
PROBLEMS.write_text(
    "".join(json.dumps({"asked": f"{n} + {n} =", "said": "It is fine."}) + "\n" for n in range(4))
)
TASK = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(PROBLEMS)}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{asked}}",
    "doc_to_target": "{{said}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def score(model: str, path: str, chat: bool, **sampling: Any) -> float:
    """Evaluate the task; return the share of exact matches."""
    task = {**TASK, "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 40, **sampling}}
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=f"model=m,base_url={URL}/{path},tokenizer_backend=None,tokenized_requests=False,num_concurrent=2",
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
        log_samples=False,
    )
    return found["results"]["sums"]["exact_match,none"]


USES = {
    "chat": lambda: score("local-chat-completions", "chat/completions", True),
    "completions": lambda: score("local-completions", "completions", False),
    "chat, sampled": lambda: score(
        "local-chat-completions", "chat/completions", True, temperature=1.0, do_sample=True
    ),
}
try_all(USES, dict.fromkeys(USES, 1.0))
