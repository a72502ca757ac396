"""The benchmarks that areal knows by name. docs/evaluation.md describes them.

The columns are those of the data sets' cards on the hub at these revisions (tests/unit/test_benchmark_data.py
has a row of each):

- gsm8k: question, answer (``#### n`` at its end); math500: problem, solution, answer, …;
- aime24: id, problem, solution, answer (text, at times with leading zeros), url, year;
- aime25: problem, answer, id;
- amc23: id, question, answer (such as ``27.0``), url;
- humaneval: task_id, prompt, canonical_solution, test, entry_point;
- mbpp: task_id, text, code, test_list, test_setup_code, challenge_test_list;
- livecodebench: question_content, starter_code, public_test_cases (JSON), private_test_cases (JSON in a
  pickle, compressed, in base64), metadata (JSON, which names the function), and more, all of it text.
"""

from __future__ import annotations

from functools import partial

from areal.envs.code import CODE_PROMPT
from areal.evaluation.benchmark import Benchmark, HubFile

_math = partial(
    Benchmark,
    env="math-v1",
    prompt="{problem}\nReason step by step, and put the final answer in \\boxed{{}}.",
)
_contest = partial(_math, max_new_tokens=16384, samples=16)
_code = partial(Benchmark, env="code-v1", prompt=CODE_PROMPT)

GSM8K = _math(
    "gsm8k",
    source=HubFile(
        "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "main/test-00000-of-00001.parquet"
    ),
    problems=1319,
    max_new_tokens=1024,
)
MATH500 = _math(
    "math500",
    source=HubFile("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test.jsonl"),
    problems=500,
    max_new_tokens=4096,
)
AIME24 = _contest(
    "aime24",
    source=HubFile(
        "HuggingFaceH4/aime_2024",
        "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        "data/train-00000-of-00001.parquet",
    ),
    problems=30,
)
AIME25 = _contest(
    "aime25",
    source=HubFile("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test.jsonl"),
    problems=30,
)
AMC23 = _contest(
    "amc23",
    source=HubFile(
        "math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test-00000-of-00001.parquet"
    ),
    problems=40,
)
HUMANEVAL = _code(
    "humaneval",
    source=HubFile(
        "openai/openai_humaneval",
        "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        "openai_humaneval/test-00000-of-00001.parquet",
    ),
    problems=164,
)


MBPP = _code(
    "mbpp",
    source=HubFile(
        "google-research-datasets/mbpp",
        "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        "full/test-00000-of-00001.parquet",
    ),
    problems=500,
    keep=lambda row: 11 <= row["task_id"] <= 510,  # its test split
)
LIVECODEBENCH = _code(
    "livecodebench",
    # What release 6 added: 175 problems of contests from January to April 2025.
    source=HubFile(
        "livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505", "test6.jsonl"
    ),
    problems=175,
    max_new_tokens=8192,
)
