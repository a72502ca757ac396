"""Files in the form of each benchmark's data set: read, asked and judged; as JSONL and as Parquet."""

from __future__ import annotations

import base64
import csv
import datetime
import json
import pickle
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from areal import registry
from areal.envs.code_problems import code_problem
from areal.envs.problems import ProblemEnv
from areal.errors import UserError
from areal.evaluation import catalog
from areal.evaluation.benchmark import Benchmark, HubFile
from areal.evaluation.benchmark_data import BenchmarkData, digest_of, find_benchmark, find_data
from areal.rewards.cases import AssertTests, CallTests, CheckTests, StreamTests

CASES = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
CALLS = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]


def hidden(cases: list[dict[str, str]]) -> str:
    """Return cases as livecodebench hides them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def livecodebench(cases: list[dict[str, str]], starter: str, metadata: dict[str, str]) -> dict[str, Any]:
    return {
        "question_title": "A. Sum",
        "question_content": "Add what is given.",
        "platform": "leetcode" if starter else "atcoder",
        "question_id": "abc",
        "contest_id": "1",
        "contest_date": datetime.datetime(2025, 1, 4),
        "starter_code": starter,
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases),
        "private_test_cases": hidden(cases * 2),
        "metadata": json.dumps(metadata),
    }


WEATHER = {
    "name": "at.weather",
    "description": "Tells how warm it is.",
    "parameters": {
        "type": "dict",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string"}, "days": {"type": "float"}},
        "required": ["city"],
    },
}
STUB = "class Solution:\n    def add(self, xs: List[int], n: int) -> List[int]:\n        "
PLUS = """
import numpy as np

def assertion(out, exp, atol):
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp

def check(candidate):
    for inputs, expected in zip([[]], [1.0]):
        assertion(candidate(*inputs), expected, 1e-6)
"""
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}],
    "math500": [
        {
            "problem": "Half of 1?",
            "solution": "It is $\\boxed{\\frac{1}{2}}$.",
            "answer": "\\frac{1}{2}",
            "subject": "Algebra",
            "level": 1,
            "unique_id": "test/a/1.json",
        }
    ],
    "aime24": [
        {
            "id": 60,
            "problem": "How many?",
            "solution": "So $\\boxed{025}$.",
            "answer": "025",
            "url": "https://example.org",
            "year": "2024",
        }
    ],
    "aime25": [{"problem": "Find the sum.", "answer": "70", "id": "0"}],
    "amc23": [
        {"id": 0, "question": "How far?", "answer": "27.0", "url": "https://example.org"},
        {"id": 1, "question": "How long?", "answer": "3159.0", "url": "https://example.org"},
    ],
    "aime26": [{"problem_idx": 1, "answer": 277, "problem": "Find the distance."}],
    **{
        name: [
            {
                "problem_idx": 1,
                "problem": "What is half of $\\sqrt{2}$?",
                "answer": "\\frac{\\sqrt{2}}{2}",
                "problem_type": ["Algebra"],
            }
        ]
        for name in ("hmmt_feb25", "hmmt_nov25", "hmmt_feb26")
    },
    "olympiadbench": [
        {
            "id": 1606,
            "question": "Which are they?",
            "solution": ["So they are.", "Or so."],
            "final_answer": ["$2,3$"],
            "context": None,
            "modality": "Text-only",
            "is_multiple_answer": True,
            "unit": None,
            "answer_type": "Numerical",
            "error": None,
        },
    ],
    "mmlu": [
        {"question": "How many?", "subject": "abstract_algebra", "choices": ["0", "4", "2", "6"], "answer": 1}
    ],
    "mmlu_pro": [
        {
            "question_id": 70,
            "question": "How many?",
            "options": [str(n) for n in range(10, 20)],
            "answer": "I",
            "answer_index": 8,
            "cot_content": "",
            "category": "business",
            "src": "ori_mmlu",
        },
    ],
    "gpqa_diamond": [
        {
            "Pre-Revision Question": "",
            "Question": 'Which energy, "in eV", is it?',
            "Correct Answer": "10^-4\n",
            "Incorrect Answer 1": "10^-8",
            "Incorrect Answer 2": "10^-9",
            "Incorrect Answer 3": "10^-11, or so",
            "Explanation": "By Heisenberg.",
        }
    ],
    "humaneval": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def one() -> int:\n    """Return 1."""\n',
            "canonical_solution": "    return 1\n",
            "test": "def check(candidate):\n    assert candidate() == 1\n",
            "entry_point": "one",
        }
    ],
    "humaneval_plus": [
        {
            "task_id": "HumanEval/0",
            "prompt": 'def one() -> float:\n    """Return 1."""\n',
            "canonical_solution": "    return 1.0\n",
            "test": PLUS,
            "entry_point": "one",
        }
    ],
    "mbpp": [
        {
            "task_id": number,
            "text": f"Write a function that adds {number}.",
            "code": "def f(x): return x",
            "test_list": [f"assert f(1) == {number + 1}", "assert f(0) == 0"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for number in (10, 11, 510, 511)
    ],
    "mbpp_plus": [
        {
            "task_id": 2,
            "code": "def f(x):\n    return x",
            "prompt": "Write a function that adds 1.",
            "source_file": "a.ipynb",
            "test_imports": [],
            "test_list": ["assert f(1) == 2", "assert f(0) == 1"],
            "test": "import numpy as np\n\nfor x in [0, 1, 2]:\n    assert f(x) == x + 1\n",
        }
    ],
    "minerva": [{"question": "How far is it?", "answer": "2.55e+10"}],
    "bbh": [
        {"task": "date_understanding", "input": "Which?\nOptions:\n(A) 1/1\n(B) 2/1", "target": "(B)"},
        {"task": "dyck_languages", "input": "Close them. Input: [ ( {", "target": "} ) ]"},
        {"task": "word_sorting", "input": "Sort: b a", "target": "a b"},
    ],
    "zebralogic": [
        {
            "id": "lgp-test-2x2-1",
            "size": "2*2",
            "puzzle": "There are 2 houses.\n",
            "solution": {
                "header": ["House", "Name", "Drink"],
                "rows": [["1", "Eric", "tea"], ["2", "Arnold", "root beer"]],
            },
            "created_at": "2024-07-03T21:21:29",
        }
    ],
    "ifeval": [
        {
            "key": 1000,
            "prompt": "Write three words or more, and no comma.",
            "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
            "kwargs": [
                {"num_words": None, "relation": None},
                {"num_words": 3, "relation": "at least"},
            ],
        }
    ],
    "bfcl": [
        *(
            {
                "id": f"{category}_{n}",
                "question": [[{"role": "user", "content": "How warm are Oslo and Bergen?"}]],
                "function": [WEATHER],
            }
            for category, n in (("live_parallel", "0-0-0"), ("irrelevance", "0"))
        ),
        {
            "id": "live_parallel_0-0-0",
            "ground_truth": [
                {"at.weather": {"city": [city], "unit": ["C", ""], "days": [1.0, ""]}}
                for city in ("Oslo", "Bergen")
            ],
        },
    ],
    **{
        name: [livecodebench(CASES, "", {}), livecodebench(CALLS, STUB, {"func_name": "add"})]
        for name in ("livecodebench", "livecodebench_v5")
    },
}
RIGHT = {
    **{"gsm8k": "1004", "math500": "0.5", "aime24": "25", "aime25": "70", "aime26": "277", "amc23": "27"},
    **dict.fromkeys(("hmmt_feb25", "hmmt_nov25", "hmmt_feb26"), "\\frac{1}{\\sqrt{2}}"),
    "minerva": "2.55 \\times 10^{10}",
    **{"olympiadbench": "3, 2", "mmlu": "B", "mmlu_pro": "I", "gpqa_diamond": "B"},
}
TESTS = {
    **{"humaneval": [CheckTests], "humaneval_plus": [CheckTests], "mbpp": [AssertTests] * 2},
    "mbpp_plus": [AssertTests],
    **{name: [StreamTests, CallTests] for name in ("livecodebench", "livecodebench_v5")},
}
SAID: dict[str, list[tuple[list[str], list[str]]]] = {
    "bbh": [
        (
            ["Answer: (B)", "Not (A).\n**Answer:** b", "answer: (B) 2/1.", "Answer: A\nFinal answer: B."],
            ["Answer: (A)", "(B)", "Answer: Both", "Answer: (B\nAnswer: A", "Answer: (C) B"],
        ),
        (["Answer: } ) ]", "Answer: `})]`"], ["Answer: ] ) }", "Answer: } ) ] ]"]),
        (["Answer: a, b"], ["Answer: b a", "Answer: ab"]),
    ],
    "zebralogic": [
        (
            [
                'So {"House 1": {"Name": "Eric", "Drink": "tea"}, '
                '"House 2": {"Name": "arnold ", "Drink": "Root  Beer"}}.',
            ],
            [
                '{"House 1": {"Name": "Arnold", "Drink": "tea"}, '
                '"House 2": {"Name": "Eric", "Drink": "root beer"}}',
                '{"House 1": {"Name": "Eric", "Drink": "tea"}}',
                "{" * 5000,
                '{"House 1": ' * 600 + "1" + "}" * 600,
            ],
        )
    ],
    "ifeval": [
        (
            ["These are words.", "<think>One, two</think>These are words."],
            ["No, never ever.", "Two words.", "", "<think>These are words.</think>Two words."],
        )
    ],
    "bfcl": [
        (
            [
                "[at.weather(city='Oslo'), at.weather(city='bergen', unit='C', days=1)]",
                "```python\nat.weather(city='Bergen', days=4/4), at.weather(city='Oslo')\n```",
            ],
            [
                "[at.weather(city='Oslo')]",
                "[at.weather(city='Oslo'), at.weather(city='Oslo')]",
                "[at.weather('Oslo'), at.weather(city='Bergen')]",
                "[weather(city='Oslo'), at.weather(city='Bergen')]",
                "[at.weather(city='Oslo', unit='F'), at.weather(city='Bergen')]",
                "[at.weather(city='Oslo', place=1), at.weather(city='Bergen')]",
                "Sure: [at.weather(city='Oslo'), at.weather(city='Bergen')]",
                "[" * 5000,
            ],
        ),
        (["None of them serves.", "[]"], ["[at.weather(city='Oslo')]"]),
    ],
}
"""Of benchmarks that want another form: of each problem, what is right, and what is wrong."""


def found(name: str, folder: Path, end: str) -> BenchmarkData:
    """Write the rows as a file of this kind, and let the benchmark find it."""
    path = folder / f"{name}{end}"
    if end == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS[name]), path)
    else:
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in ROWS[name]))
    return find_data(registry.benchmarks.get(name), folder, folder / "kept")


@pytest.mark.parametrize("name", [name for name in ROWS if name != "bfcl"])  # no table holds its rows
def test_rows_become_problems_whatever_the_file(name: str, tmp_path: Path):
    benchmark = registry.benchmarks.get(name)
    data = found(name, tmp_path, ".jsonl")
    (tmp_path / f"{name}.jsonl").rename(tmp_path / "given.jsonl")
    from_parquet = found(name, tmp_path, ".parquet")
    assert digest_of(from_parquet.path) == from_parquet.digest == data.digest, "the same rows"
    rows = [json.loads(line) for line in from_parquet.path.read_text().splitlines()]
    if name in SAID:
        assert len(rows) == len(SAID[name]) == found_problems(benchmark, from_parquet).count("test")
    elif name in RIGHT:
        options = benchmark.settings(from_parquet.path)["env_options"]
        env = registry.make_env(benchmark.env, **options)
        assert env.unwrapped.count("test") == len(rows)
        prompt, _ = env.reset(options={"index": 0, "split": "test"})
        assert prompt.startswith(next(v for v in ROWS[name][0].values() if str(v).endswith(("?", "."))))
        assert "\\boxed{}" in prompt
        assert env.step(f"\\boxed{{{RIGHT[name]}}}")[1] == 1.0
        env.reset(options={"index": 0, "split": "test"})
        assert env.step("\\boxed{26}")[1] == 0.0
    else:
        problems = [code_problem(row, "here") for row in rows]
        assert [type(p.tests) for p in problems] == TESTS[name], "and of mbpp only the test split"
        assert all(p.by_value for p in problems)


def found_problems(benchmark: Benchmark, data: BenchmarkData) -> ProblemEnv[Any]:
    env = registry.make_env(benchmark.env, **benchmark.settings(data.path)["env_options"]).unwrapped
    assert isinstance(env, ProblemEnv)
    return env


@pytest.mark.parametrize("name", SAID)
def test_answers_in_other_forms(name: str, tmp_path: Path):
    if name == "ifeval":
        pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    env = found_problems(registry.benchmarks.get(name), found(name, tmp_path, ".jsonl"))
    for index, answers in enumerate(SAID[name]):
        for score, said in zip((1.0, 0.0), answers, strict=True):
            for text in said:
                env.reset(options={"index": index, "split": "test"})
                assert env.step(text)[1] == score, text


def test_files_of_parts(tmp_path: Path):
    for task in ("navigate", "word_sorting"):
        folder = tmp_path / "bbh" / task
        folder.mkdir(parents=True)
        rows = [{"input": f"{task} {n}", "target": "no"} for n in range(2)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    (tmp_path / "bbh" / "README.md").write_text("Not data.")
    for name, asked in (("bbh", ["navigate", "word_sorting"]), ("bbh@navigate", ["navigate"])):
        data = find_data(find_benchmark(name), tmp_path, tmp_path / "kept")
        rows = [json.loads(line) for line in data.path.read_text().splitlines()]
        assert [row["problem"] for row in rows] == [f"{task} {n}" for task in asked for n in range(2)]
    with pytest.raises(
        UserError, match=r"'bbh' has no part 'navigat' \(values of task: navigate, word_sorting\)"
    ):
        find_data(find_benchmark("bbh@navigat"), tmp_path, tmp_path / "kept")
    with pytest.raises(UserError, match="'gsm8k' has no parts; remove '@x'"):
        find_benchmark("gsm8k@x")


@pytest.mark.parametrize(
    ("part", "months", "files"),
    [
        ("2024-10..2025-01", ["2024-10", "2025-01"], ["test5.jsonl", "test6.jsonl"]),
        ("2024-10-02..2025-01-03", [], ["test5.jsonl", "test6.jsonl"]),
        ("2025-02..", ["2025-03"], ["test6.jsonl"]),
        ("2025-01", ["2025-01"], ["test5.jsonl", "test6.jsonl"]),
        ("2025-01-04", ["2025-01"], ["test5.jsonl", "test6.jsonl"]),
        ("..2024-09", ["2024-09"], [f"test{n}.jsonl" for n in ("", *range(2, 7))]),
        ("2024-09..2024-09", ["2024-09"], [f"test{n}.jsonl" for n in range(4, 7)]),
    ],
)
def test_livecodebench_by_date(tmp_path: Path, part: str, months: list[str], files: list[str]):
    benchmark = find_benchmark(f"livecodebench@{part}")
    assert isinstance(benchmark.source, HubFile)
    assert list(benchmark.source.patterns) == files
    made = [("2024-09", 30), ("2024-10", 1), ("2025-01", 4), ("2025-03", 1)]
    with (tmp_path / "livecodebench.jsonl").open("w") as file:
        for month, day in made:
            row = {**livecodebench(CASES, "", {}), "contest_date": f"{month}-{day:02}T00:00:00"}
            file.write(json.dumps(row) + "\n")
    if not months:
        with pytest.raises(UserError, match="has no part"):
            find_data(benchmark, tmp_path, tmp_path / "kept")
        return
    data = find_data(benchmark, tmp_path, tmp_path / "kept")
    rows = [json.loads(line) for line in data.path.read_text().splitlines()]
    assert [row["contest_date"][:7] for row in rows] == months
    asked = benchmark.settings(data.path)["evaluation"]["problems"]
    assert asked > 1055, "a time may have more problems than the release that is asked without one"


def test_each_benchmark_has_rows_here():
    assert {found.name for found in vars(catalog).values() if isinstance(found, Benchmark)} == set(ROWS)


def test_gpqa_as_it_is_published(tmp_path: Path):
    row = ROWS["gpqa_diamond"][0]
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    benchmark = registry.benchmarks.get("gpqa_diamond")
    data = find_data(benchmark, tmp_path, tmp_path / "kept")
    env = registry.make_env(benchmark.env, **benchmark.settings(data.path)["env_options"])
    asked, _ = env.reset(options={"index": 0, "split": "test"})
    assert asked.startswith('Which energy, "in eV", is it?\nA. 10')
    assert f"\n{RIGHT['gpqa_diamond']}. 10^-4\n" in asked
    assert asked.endswith("put the letter in \\boxed{}.")


def test_a_time_after_all_releases():
    with pytest.raises(
        UserError, match=r"has no part '2025-05\.\.2025-08', because all of its files are older"
    ):
        find_benchmark("livecodebench@2025-05..2025-08")


def test_tests_that_run_beside_the_answer_are_refused():
    row = {"task_id": "BigCodeBench/0", "instruct_prompt": "Sum.", "entry_point": "task_func", "test": "..."}
    with pytest.raises(UserError, match="here: BigCodeBench's tests run in the process of the answer"):
        code_problem(row, "here")


def test_tests_of_livecodebench_are_all_there(tmp_path: Path):
    streams, calls = (code_problem(row, "here").tests for row in ROWS["livecodebench"])
    assert isinstance(streams, StreamTests)
    assert [case.stdout for case in streams.cases] == ["3\n"] * 3, "public and hidden"
    assert isinstance(calls, CallTests)
    assert calls.cases[2].call.function == "Solution.add"
    assert (calls.cases[2].call.args, calls.cases[2].expected) == (([1, 2], 3), [4, 5])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("mbpp.jsonl", b'{"text": "a"}\n', "benchmark 'mbpp': a row of .* has no field 'task_id'"),
        ("mbpp.jsonl", b'{"task_id": 1}\n', "has none of its problems"),
        ("mbpp.parquet", b"PAR0", "is not a complete Parquet file"),
        ("mbpp.jsonl", b"", "mbpp.jsonl is empty"),
    ],
)
def test_files_that_are_not_a_benchmark_s(tmp_path: Path, name: str, content: bytes, complaint: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        find_data(registry.benchmarks.get("mbpp"), tmp_path, tmp_path / "kept")
    assert "\n" not in str(caught.value)


class Gone(BaseHTTPRequestHandler):
    """A hub that has no such revision."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gone)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_revision_that_is_not_there(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    template = hub + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    source = HubFile("o/d", "0" * 40, "test.jsonl")
    with pytest.raises(
        UserError, match=r"cannot load hf://datasets/o/d@0{40}/test.jsonl \(404 .*Revision Not"
    ):
        source.fetch()
