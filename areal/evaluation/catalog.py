"""The benchmarks that areal knows by name. docs/evaluation.md describes them.

The columns are those of the data sets' cards on the hub at these revisions (tests/unit/test_benchmark_data.py
has a row of each):

- gsm8k: question, answer (``#### n`` at its end); math500: problem, solution, answer, …;
- aime24: id, problem, solution, answer (text, at times with leading zeros), url, year;
- aime25: problem, answer, id; aime26: problem_idx, problem, answer (a number);
- amc23: id, question, answer (such as ``27.0``), url;
- hmmt_feb25, hmmt_nov25, hmmt_feb26: problem_idx, problem, answer (LaTeX), problem_type;
- olympiadbench: question, context, final_answer (a list of one, with commas in it if several), solution, …;
- mmlu: question, subject, choices, answer (a number, from 0);
- mmlu_pro: question_id, question, options (up to ten), answer (a letter), answer_index, category, …;
- gpqa_diamond: Question, Correct Answer, Incorrect Answer 1 to 3, and 50 more;
- minerva: question, answer (LaTeX);
- bbh: input, target, a file for each of 27 tasks;
- zebralogic: id, size, puzzle, solution (header and rows), created_at;
- ifeval: key, prompt, instruction_id_list, kwargs;
- bfcl: id, question (turns of messages), function (descriptions), and in files of the same names id and
  ground_truth (areal.rewards.calls);
- humaneval, humaneval_plus: task_id, prompt, canonical_solution, test, entry_point;
- mbpp: task_id, text, code, test_list, test_setup_code, challenge_test_list;
- mbpp_plus: task_id, code, prompt, source_file, test_imports, test_list, test;
- livecodebench: question_content, starter_code, public_test_cases (JSON), private_test_cases (JSON in a
  pickle, compressed, in base64), metadata (JSON, which names the function), contest_date, and more.
"""

from __future__ import annotations

from functools import partial

from areal.envs.code import CODE_PROMPT
from areal.evaluation import published
from areal.evaluation.benchmark import Benchmark, HubFile, Parts

_math = partial(
    Benchmark,
    env="math-v1",
    prompt="{problem}\nReason step by step, and put the final answer in \\boxed{{}}.",
)
_contest = partial(_math, max_new_tokens=16384, samples=16)
_choice = partial(
    _math, prompt="{problem}\nReason step by step, and put the letter in \\boxed{{}}.", max_new_tokens=4096
)
_code = partial(Benchmark, env="code-v1", prompt=CODE_PROMPT)
_livecodebench = partial(
    HubFile, "livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"
)

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
AIME26 = _contest(
    "aime26",
    source=HubFile(
        "MathArena/aime_2026",
        "d2de22f3c656b4f56cf8981212186377d1e23bc3",
        "data/train-00000-of-00001.parquet",
    ),
    problems=30,
)
HMMT_FEB25 = _contest(
    "hmmt_feb25",
    source=HubFile(
        "MathArena/hmmt_feb_2025",
        "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
        "data/train-00000-of-00001.parquet",
    ),
    problems=30,
)
HMMT_NOV25 = _contest(
    "hmmt_nov25",
    source=HubFile(
        "MathArena/hmmt_nov_2025",
        "118dbfb45c4c9467c672268ed55166642897aa46",
        "data/train-00000-of-00001.parquet",
    ),
    problems=30,
)
HMMT_FEB26 = _contest(
    "hmmt_feb26",
    source=HubFile(
        "MathArena/hmmt_feb_2026",
        "02fba4f74d8e68e73e66a02d540fd979c05c274c",
        "data/train-00000-of-00001.parquet",
    ),
    problems=33,
)
OLYMPIADBENCH = _math(
    "olympiadbench",
    # Open-ended problems of mathematics in English, without images.
    source=HubFile(
        "Hothan/OlympiadBench",
        "91184b52131e7fc9455fef848035173aea8cc01a",
        "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
    ),
    problems=674,
    max_new_tokens=8192,
)
AMC23 = _contest(
    "amc23",
    source=HubFile(
        "math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test-00000-of-00001.parquet"
    ),
    problems=40,
)
MMLU = _choice(
    "mmlu",
    source=HubFile(
        "cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "all/test-00000-of-00001.parquet"
    ),
    problems=14042,
    parts=Parts("subject"),
)
MMLU_PRO = _choice(
    "mmlu_pro",
    source=HubFile(
        "TIGER-Lab/MMLU-Pro", "b189ec765aa7ed75c8acfea42df31fdae71f97be", "data/test-00000-of-00001.parquet"
    ),
    problems=12032,
    parts=Parts("category"),
)
GPQA_DIAMOND = _choice(
    "gpqa_diamond",
    # The hub requires a token of an account that has accepted the terms.
    source=HubFile("Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", "gpqa_diamond.csv"),
    problems=198,
    max_new_tokens=16384,
    samples=4,
)
MINERVA = _math(
    "minerva",
    source=HubFile("math-ai/minervamath", "main", "*test*"),  # no fixed revision is known
    problems=272,
    max_new_tokens=4096,
)
BBH = Benchmark(
    "bbh",
    env="data-v1",
    source=HubFile(
        "lukaemon/bbh", "982bb89fd79532a8ac676a61fc42eb1aeec63f99", "*/test-00000-of-00001.parquet"
    ),
    problems=6511,
    prompt='{problem}\nReason step by step, and end with a line of the form "Answer: ...".',
    env_options={"answer": "{answer}", "verifier": "answer-line"},
    prepare=published.bbh,
    parts=Parts("task"),
)
ZEBRALOGIC = Benchmark(
    "zebralogic",
    env="data-v1",
    # The mirror that includes the solutions.
    source=HubFile(
        "WildEval/ZebraLogic",
        "0a473f5a0054835754ed156d5a79c6ce27178bb1",
        "grid_mode/test-00000-of-00001.parquet",
    ),
    problems=1000,
    prompt="{problem}",
    max_new_tokens=8192,
    env_options={"answer": "{answer}", "verifier": "json"},
    prepare=published.zebralogic,
    parts=Parts("size"),
)
IFEVAL = Benchmark(
    "ifeval",
    env="data-v1",
    source=HubFile("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84", "ifeval_input_data.jsonl"),
    problems=541,
    prompt="{problem}",
    env_options={"answer": "{answer}", "verifier": "instructions"},
    prepare=published.ifeval,
)
BFCL = Benchmark(
    "bfcl",
    env="data-v1",
    source=HubFile(
        "gorilla-llm/Berkeley-Function-Calling-Leaderboard",
        "61fc0608cfd831fcfbbaa676ebdfef0ed963eeda",
        published.BFCL_FILES,
    ),
    problems=3491,
    prompt="{problem}",
    max_new_tokens=1024,
    env_options={"answer": "{answer}", "verifier": "calls"},
    prepare=published.bfcl,
    parts=Parts("category"),
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
HUMANEVAL_PLUS = _code(
    "humaneval_plus",
    source=HubFile("evalplus/humanevalplus", "d32357cf319e50e9c8d8dab5ea876c72b0fd321b", "test.jsonl"),
    problems=164,
    env_options={"packages": ["numpy"]},  # its tests import it
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
MBPP_PLUS = _code(
    "mbpp_plus",
    source=HubFile(
        "evalplus/mbppplus",
        "b2d74c91837c3f2a20c1299ae98133cbe7cfa077",
        "data/test-00000-of-00001-d5781c9c51e02795.parquet",
    ),
    problems=378,
    env_options={"packages": ["numpy"]},  # its tests import it
)
LIVECODEBENCH = _code(
    "livecodebench",
    # The problems added in release 6: 175 problems of contests from January to April 2025.
    source=_livecodebench("test6.jsonl"),
    problems=175,
    max_new_tokens=8192,
    # Any period from May 2023 on, such as livecodebench@2024-10..2025-01.
    parts=Parts("contest_date", lambda part: _livecodebench(published.livecodebench_files(part))),
)
LIVECODEBENCH_V5 = _code(
    "livecodebench_v5",
    # The problems added in release 5: 167 problems, up to January 2025.
    source=_livecodebench("test5.jsonl"),
    problems=167,
    max_new_tokens=8192,
)
