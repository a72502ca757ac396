"""Data of others: the forms of rows, of files and of folders; what is refused, and in which line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from areal.envs.code_problems import code_problem
from areal.envs.data import load_pairs
from areal.envs.rows import read_rows
from areal.errors import UserError
from areal.evaluation.benchmark import Benchmark
from areal.evaluation.benchmark_data import find_data
from areal.registry import make_env
from areal.rewards.cases import StreamTests

USER = {"role": "user", "content": "1+1?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SHOTS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
VERL = {
    "data_source": "math_dapo",
    "prompt": [USER],
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b"},
}


def jsonl(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def only(tmp_path: Path, row: Any, **options: Any) -> tuple[list[tuple[str, str]], str]:
    """Return what a model is asked by an environment of one row, and the answer that earns."""
    data = jsonl(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", row)
    env = make_env("data-v1" if options else "math-v1", data=data, **options)
    asked, info = env.reset(options={"index": 0})
    asked = asked.removesuffix("\nPut the final answer in \\boxed{}.")
    messages = info.get("messages", [{"role": "user", "content": asked}])
    assert set(messages[-1]) == {"role", "content"}
    assert messages[-1]["content"].startswith(asked)
    shown = [(m["role"], m["content"].removesuffix("\nPut the final answer in \\boxed{}.")) for m in messages]
    return shown, env.unwrapped.problem.answer


ROWS: dict[str, Any] = {
    "verl, DAPO": VERL,
    "Skywork": {**VERL, "reward_model": {"ground_truth": '["2"]', "style": "rule"}},
    "verl, GSM8K": {**VERL, "extra_info": {"answer": "1 + 1 = 2\n#### 2", "question": "1+1?"}},
    "TRL, conversational": {"prompt": [USER], "solution": "It is $\\boxed{2}$."},
    "TRL, text": {"prompt": "1+1?", "completion": "two", "answer": 2},
    "slime": {"prompt": [USER], "label": "2"},
    "OpenRLHF": {"input": "1+1?", "label": "2"},
    "prime-rl": {"prompt": "1+1?", "verification_info": '{"ground_truth": "2"}', "task_type": "math"},
    "verifiers": {"question": "1+1?", "answer": "2", "info": {}, "task": "default"},
    "NeMo Gym": {"responses_create_params": {"input": [USER]}, "expected_answer": "2"},
    "NeMo Gym, text": {"responses_create_params": {"input": "1+1?"}, "expected_answer": "2"},
    "SkyRL": {"prompt": [USER], "reward_spec": {"method": "rule", "ground_truth": "2"}},
    "messages": {"messages": [USER], "answer": "2"},
    "messages, a transcript": {"messages": [USER, {"role": "assistant", "content": "So \\boxed{2}"}]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "#### 2"}]},
    "ORZ": [{"from": "human", "value": "1+1?"}, {"from": "assistant", "ground_truth": {"value": "2"}}],
    "Alpaca": {"instruction": "1+1?", "input": "", "output": "2"},
    "parts": {"prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}], "answer": "2"},
    "messages as JSON": {"prompt": json.dumps([USER]), "reward_model": json.dumps({"ground_truth": "2"})},
    "messages as Python": {"prompt": str([USER]), "answer": "2"},
    "messages as NumPy": {"prompt": str([USER, *SHOTS, USER]).replace("}, {", "}\n {"), "answer": "2"},
    "a list of one": {"problem": "1+1?", "answer": ["2"]},
    "a list of the same": {"problem": "1+1?", "answer": ["2", 2]},
    "null first": {"problem": "1+1?", "answer": None, "solution": "\\boxed{2}"},
    "not a number first": {"problem": "1+1?", "answer": float("nan"), "ground_truth": 2},
}


@pytest.mark.parametrize("form", ROWS)
def test_rows_of_others(form: str, tmp_path: Path):
    said, answer = only(tmp_path, ROWS[form])
    assert (said[-1], answer) == (("user", "1+1?"), "2")
    assert len(said) == (4 if form == "messages as NumPy" else 1)


@pytest.mark.parametrize(("answer", "text"), [(5, "5"), (5.0, "5.0"), (True, "True"), (-0.5, "-0.5")])
def test_answers_that_are_no_text(answer: object, text: str, tmp_path: Path):
    assert only(tmp_path, {"problem": "?", "answer": answer})[1] == text
    assert only(tmp_path, {"problem": "?", "a": answer}, answer="{a}")[1] == text


@pytest.mark.parametrize(
    "row",
    [
        {**VERL, "prompt": [SYSTEM, *SHOTS, USER]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *SHOTS, USER], "answer": "2"},
        {"question": "1+1?", "prompt": [SYSTEM, *SHOTS, USER], "answer": "2"},
        {"question": "1+1?", "messages": [SYSTEM, *SHOTS, USER], "answer": "2"},
        {
            "responses_create_params": {"instructions": "Be brief.", "input": [*SHOTS, USER]},
            "expected_answer": "2",
        },
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4"},
                {"from": "human", "value": "1+1?"},
                {"from": "gpt", "value": "2"},
            ]
        },
    ],
)
@pytest.mark.parametrize("options", [{}, {"prompt": "{problem}"}])
def test_what_is_said_before_is_kept(row: dict[str, Any], options: dict[str, str], tmp_path: Path):
    said = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "1+1?")]
    assert only(tmp_path, row, **options) == (said, "2")


def test_templates_read_only_what_they_name(tmp_path: Path):
    two = {**VERL, "prompt": [SYSTEM, USER], "reward_model": {"ground_truth": ["2"]}, "other": [{"role": 3}]}
    parts = {"prompt": "{prompt[1][content]}", "answer": "{reward_model[ground_truth]}"}
    assert only(tmp_path, two, **parts) == ([("user", "1+1?")], "2")
    # The field as a whole is the conversation; a verifier other than mathematics gets the words as they are.
    said = [("system", "Be brief."), ("user", "Q: 1+1?")]
    assert only(tmp_path, two, **{**parts, "prompt": "Q: {prompt}"}) == (said, "2")
    odd = {"q": "1+1?", "prompt": [{"role": "tool"}], "a": "so\n#### 2"}
    assert only(tmp_path, odd, prompt="{q}", answer="{a}")[1] == "2"
    assert only(tmp_path, odd, prompt="{q}", answer="{a}", verifier="exact")[1] == "so\n#### 2"
    assert only(tmp_path, {"q": "1+1?", "answer": "2"}, prompt="{q}")[1] == "2"
    in_json = {"q": "1+1?", "r": '{"a": [2]}'}
    assert only(tmp_path, in_json, prompt="{q}", answer="{r[a][0]}")[1] == "2"


@pytest.mark.parametrize(
    ("row", "options", "complaint"),
    [
        ({"prompt": "[{'role': 'user', 'content': array(1)}]", "answer": "2"}, {}, "looks like messages"),
        ({"prompt": [USER, SHOTS[1]], "answer": "2"}, {}, "ends with the assistant's own words"),
        ({"prompt": [SYSTEM], "answer": "2"}, {}, "no last word of the user"),
        ({"prompt": [{"role": "tool", "content": "x"}], "answer": "2"}, {}, "the role 'tool'"),
        (
            {"prompt": [{**USER, "content": [{"type": "image"}]}], "answer": "2"},
            {},
            "no text, such as an image",
        ),
        ({"prompt": [{**USER, "tool_calls": [{}]}], "answer": "2"}, {}, "has tool calls"),
        ({"prompt": [USER]}, {}, "none of the keys answer, solution, response .*expected_answer"),
        ({"prompt": [USER], "answer": ""}, {}, "none of the keys answer"),
        ({"prompt": [USER], "answer": ["3", "-2"]}, {}, "answer holds 2 answers"),
        ({"prompt": [USER], "reward_model": {"ground_truth": {"target": 9}}}, {}, "holds an object .target."),
        ({"question": "Which?", "choices": ["a", "b"], "answer": 1}, {}, "choices are not in the text"),
        (
            {"responses_create_params": {"input": [USER], "tools": [{"type": "function"}]}, "label": "2"},
            {},
            "asks for tools",
        ),
        ({"q": "?", "label": None}, {"prompt": "{q}", "answer": "{label}"}, "holds no answer"),
        ({"q": "?", "label": [1, 2]}, {"prompt": "{q}", "answer": "{label}"}, "holds 2 answers"),
        ({"q": None, "label": 1}, {"prompt": "{q}", "answer": "{label}"}, "{q} is null"),
        ({"q": "?", "r": {"a": 1}}, {"prompt": "{q}", "answer": "{r[b]}"}, "needs {b}"),
        ({"q": "?", "r": "text"}, {"prompt": "{q}", "answer": "{r[b]}"}, "names what the row has not"),
    ],
)
def test_rows_that_are_refused(row: Any, options: dict[str, str], complaint: str, tmp_path: Path):
    with pytest.raises(UserError, match=complaint) as caught:
        only(tmp_path, row, **options)
    assert f"{tmp_path}/0.jsonl, line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choices_in_the_text_are_no_obstacle(tmp_path: Path):
    row = {"question": "a or b?", "choices": ["a", "b"], "answer": "b"}
    assert only(tmp_path, row)[1] == "b"
    assert only(tmp_path, {"problem": "1+1?", "answer": "2", "options": []})[1] == "2"
    # What stands beside the text need not be readable.
    beside = {"problem": "1+1?", "answer": "2", "messages": [{"role": "tool", "content": "x"}]}
    assert only(tmp_path, beside) == ([("user", "1+1?")], "2")


def test_code_of_verl_rows():
    cases = {"inputs": ["1\n"], "outputs": ["2\n"]}
    row = {"prompt": [SYSTEM, USER], "reward_model": {"ground_truth": json.dumps(cases)}}
    problem = code_problem(row, "here")
    assert isinstance(problem.tests, StreamTests)
    assert problem.problem.startswith("1+1?")
    assert problem.opening == (("system", "Be brief."),)


# --- files -----------------------------------------------------------------------------------------------

MANY = [{"problem": f"{i}\u2028{i}?", "answer": str(i), "n": i} for i in range(30)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in MANY)
TABLE = pyarrow.Table.from_pylist(MANY)
CSV = "problem,answer,n\n" + "".join(f'"{r["problem"]}",{r["answer"]},{r["n"]}\n' for r in MANY)


def as_parquet(path: Path) -> None:
    parquet.write_table(TABLE, path, row_group_size=7)


def as_arrow(path: Path, new: Callable[..., Any] = ipc.new_file) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, new(file, TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=7):
            writer.write_batch(batch)


def zstd(path: Path) -> None:
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(LINES.encode())


FILES: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl": lambda p: p.write_text(LINES),
    "bom.jsonl": lambda p: p.write_text(LINES, encoding="utf-8-sig"),
    "crlf.jsonl": lambda p: p.write_bytes(LINES.replace("\n", "\r\n\r\n").encode()),
    "no_end.ndjson": lambda p: p.write_text(LINES.rstrip("\n")),
    "lines.json": lambda p: p.write_text(LINES),
    "array.json": lambda p: p.write_text(json.dumps(MANY)),
    "array.jsonl": lambda p: p.write_text(json.dumps(MANY, indent=1)),
    "bom_array.json": lambda p: p.write_text(json.dumps(MANY), encoding="utf-8-sig"),
    "within.json": lambda p: p.write_text(json.dumps({"version": 1, "data": MANY}, indent=2)),
    "no_suffix": lambda p: p.write_text(LINES),
    "lines.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES.encode())),
    "gz_by_content.jsonl": lambda p: p.write_bytes(gzip.compress(LINES.encode())),
    "lines.jsonl.bz2": lambda p: p.write_bytes(bz2.compress(LINES.encode())),
    "lines.jsonl.xz": lambda p: p.write_bytes(lzma.compress(LINES.encode())),
    "lines.jsonl.zst": zstd,
    "table.parquet": as_parquet,
    "parquet_by_content": as_parquet,
    "file.arrow": as_arrow,
    "stream.arrow": lambda p: as_arrow(p, ipc.new_stream),
    "comma.csv": lambda p: p.write_text(CSV),
    "bom.csv": lambda p: p.write_text(CSV, encoding="utf-8-sig"),
    "excel.csv": lambda p: p.write_text(CSV.replace(",", ";").replace("\n", "\r\n"), newline=""),
    "frame.csv": lambda p: p.write_text(
        "".join(f"{n or ''},{x}\n" for n, x in enumerate(CSV.strip().split("\n")))
    ),
    "tabs.tsv": lambda p: p.write_text(CSV.replace(",", "\t")),
    "packed.csv.gz": lambda p: p.write_bytes(gzip.compress(CSV.encode())),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path):
    FILES[name](tmp_path / name)
    rows = [{**row, "n": int(row["n"])} for row, _ in read_rows(tmp_path / name)]
    assert rows == MANY
    for env in ("math-v1", "data-v1"):
        made = make_env(env, data=str(tmp_path / name), prompt="{problem}").unwrapped
        assert made.count("train") + made.count("test") == 30
        assert made.notices[0].startswith(f"{tmp_path / name}: read as rows of problem and answer: ")
    # And as a benchmark's.
    benchmark = Benchmark("mine", env="math-v1", source="nowhere.jsonl", problems=30, prompt="{problem}")
    found = find_data(benchmark, tmp_path / name, tmp_path / "kept")
    assert [{**row, "n": int(row["n"])} for row, _ in read_rows(found.path)] == MANY


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("d.jsonl", LINES.encode("utf-16"), "is UTF-16 text: convert it"),
        ("d.csv", CSV.encode("utf-16-be"), "UTF-16: convert it to UTF-8"),
        ("d.jsonl", LINES.encode("utf-16-le"), "UTF-16: convert it to UTF-8"),
        ("d.csv", "problem,answer\nGrüße,1\n".encode("latin-1"), "is not UTF-8 text.*iconv"),
        (
            "d.jsonl",
            b'{"problem": "1", "answer": "1"}\n{"problem": "\xe9"}\n',
            "not UTF-8 text: .* in line 2",
        ),
        ("d.jsonl.gz", gzip.compress(LINES.encode())[:-20], "is not a whole gz file"),
        ("d.jsonl.xz", lzma.compress(LINES.encode())[:-20], "is not a whole xz file"),
        ("d.parquet", b"PAR1 and then nothing", "is no whole Parquet file"),
        ("d.parquet", b"", "is empty"),
        ("d.parquet", b"no such thing", "is no whole Parquet file"),
        ("d.zip", b"PK\x03\x04 and so on", "a zip archive"),
        ("d.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("d.csv", b"problem,answer\n1,2,3\n", "line 2: the row has not as many cells"),
        ("d.csv", b"problem,answer\n1\n", "line 2: the row has not as many cells"),
        ("d.csv", b"problem,problem\n1,2\n", "line 1: the header names each column"),
        ("d.csv", b'problem,answer\n"1,2\n', "not valid CSV"),
        ("d.csv", b"problem,answer\n", "is empty"),
        ("d.json", b'[\n{"problem": "1", "answer": "1"},\n{"problem": }\n]', "line 3: not valid JSON"),
        ("d.jsonl", b'{"problem": "1"\n{"problem": "2", "answer": "2"}\n', "line 1: not valid JSON"),
        ("d.json", b'"text"', "holds no rows"),
        ("d.json", b"[1, 2]", "item 0: not a JSON object"),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, complaint: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        make_env("math-v1", data=str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_without_pyarrow_a_line_says_what_to_install(tmp_path: Path):
    as_parquet(tmp_path / "d.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from areal.envs.rows import read_rows, Path\nfrom areal.errors import UserError\n"
        f"try: list(read_rows(Path({str(tmp_path / 'd.parquet')!r})))\n"
        "except UserError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "is a Parquet file: to read it, pip install" in out
    assert "[data]" in out
    assert out.count("\n") == 1


# --- folders and splits ----------------------------------------------------------------------------------


def saved(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> None:
    """Write a split as ``datasets.Dataset.save_to_disk`` does."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        table = pyarrow.Table.from_pylist(rows[i::shards])
        with pyarrow.OSFile(str(folder / name), "wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def sizes(data: str, **options: Any) -> tuple[int, int]:
    env = make_env("math-v1", data=data, **options).unwrapped
    return env.count("train"), env.count("test")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shards = tmp_path / "hub" / "data"
    shards.mkdir(parents=True)
    for name, part in (
        ("train-00000-of-00002", MANY[:10]),
        ("train-00001-of-00002", MANY[10:20]),
        ("test-00000-of-00001", MANY[20:25]),
        ("hard-00000-of-00001", MANY[25:]),
    ):
        parquet.write_table(pyarrow.Table.from_pylist(part), shards / f"{name}.parquet")
    (tmp_path / "hub" / "README.md").write_text("a card")
    for place in ("hub", "./hub", str(tmp_path / "hub"), "hub/"):
        assert sizes(place) == (20, 5)
    assert sizes("./hub:hard", test_data="hub:test") == (5, 5)
    with pytest.raises(UserError, match="hub has no split 'tets'; did you mean 'test'"):
        sizes("hub:tets")

    saved(tmp_path / "one", MANY)
    assert sum(sizes("./one")) == 30
    saved(tmp_path / "two" / "train", MANY[:20])
    saved(tmp_path / "two" / "validation", MANY[20:])
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert sizes("two") == (20, 10)
    assert sum(sizes("two:validation")) == 10

    (tmp_path / "sets" / "main").mkdir(parents=True)
    (tmp_path / "sets" / "socratic").mkdir()
    for name in ("main", "socratic"):
        as_parquet(tmp_path / "sets" / name / "train-00000-of-00001.parquet")
    assert sum(sizes("sets", subset="main")) == 30
    with pytest.raises(UserError, match="several data sets: name one, as in subset=main"):
        sizes("sets")
    with pytest.raises(UserError, match="no subfolder 'mian'; did you mean 'main'"):
        sizes("sets", subset="mian")


def test_folders_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no data"):
        sizes("empty")
    (tmp_path / "both").mkdir()
    as_parquet(tmp_path / "both" / "train.parquet")
    (tmp_path / "both" / "train.jsonl").write_text(LINES)
    with pytest.raises(UserError, match=r"several forms .\.jsonl, \.parquet"):
        sizes("./both")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a-00000-of-00001.jsonl").write_text(LINES)
    (tmp_path / "odd" / "b-00000-of-00001.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="has no split train: name one, as in data=odd:a"):
        sizes("odd")
    for place in ("./empt", "empt.jsonl", "/nowhere/at/all", "a/b/c", "~/nothing.parquet"):
        with pytest.raises(UserError, match="does not exist"):
            sizes(place)
    (tmp_path / "problems.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="does not exist; did you mean 'problems\\.jsonl'"):
        sizes("problem.jsonl")


@pytest.mark.parametrize("place", ["d.jsonl", "folder", "folder:train"])
@pytest.mark.parametrize("env", ["math-v1", "data-v1", "code-v1"])
def test_a_file_that_was_changed_is_read_again(env: str, place: str, tmp_path: Path):
    path = tmp_path / place if place == "d.jsonl" else tmp_path / "folder" / "train.jsonl"
    path.parent.mkdir(exist_ok=True)
    test = {"tests": ["assert f() == 1"]} if env == "code-v1" else {"answer": "1"}
    for count in (3, 4):
        jsonl(path, *({"problem": f"{i}?", **test} for i in range(count)))
        made = make_env(env, data=f"{tmp_path}/{place}").unwrapped
        assert made.count("train") + made.count("test") == count
        again = make_env(env, data=f"{tmp_path}/{place}").unwrapped
        assert again._problems._listed is made._problems._listed, "what has not changed is read once"


def test_a_folder_or_a_split_as_a_benchmark(tmp_path: Path):
    benchmark = Benchmark("mine", env="math-v1", source="nowhere.jsonl", problems=30, prompt="{problem}")
    saved(tmp_path / "kept" / "train", MANY[:20])
    saved(tmp_path / "kept" / "test", MANY[20:])
    (tmp_path / "kept" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for place, count in ((tmp_path / "kept", 10), (f"{tmp_path}/kept:train", 20)):
        assert len(list(read_rows(find_data(benchmark, place, tmp_path / "written").path))) == count
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine.csv").write_text(CSV)
    assert len(list(read_rows(find_data(benchmark, tmp_path / "all", tmp_path / "written").path))) == 30


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 40])
def test_something_is_held_out_and_something_left(count: int, tmp_path: Path):
    rows = [{"problem": f"{i}?", "answer": "1"} for i in range(count)]
    train, test = sizes(jsonl(tmp_path / "d.jsonl", *rows))
    assert train + test == count
    assert train
    assert test
    assert sizes(jsonl(tmp_path / "turned.jsonl", *rows[::-1])) == (train, test)


def test_one_problem_is_to_train_on(tmp_path: Path):
    for i in range(30):  # also where its hash would hold it out
        assert sizes(jsonl(tmp_path / f"{i}.jsonl", {"problem": f"{i}?", "answer": "1"})) == (1, 0)


def test_how_it_was_read_and_what_may_be_wrong(tmp_path: Path):
    splits = load_pairs(jsonl(tmp_path / "d.jsonl", *([VERL] * 40), *MANY), None, None)
    assert splits.notices == (
        f"{tmp_path}/d.jsonl: read as verl rows (40), rows of problem and answer (30): "
        f"{len(splits['train'])} problems, {len(splits['test'])} held out",
    )
    again = f"39 of the {len(splits['train'])} problems to train on repeat an earlier one: leave them out"
    assert splits.warnings == (again,)
    some = jsonl(tmp_path / "some.jsonl", *MANY[:5])
    leaking = load_pairs(jsonl(tmp_path / "all.jsonl", *MANY), None, some)
    assert len(leaking.warnings) == 1
    assert leaking.warnings[0].startswith("5 of the 5 held-out problems are trained on, too")
    # Near misses: the same question after another opening, and a few that repeat.
    other = {**VERL, "prompt": [SYSTEM, USER]}
    fine = load_pairs(jsonl(tmp_path / "e.jsonl", VERL, *MANY), None, jsonl(tmp_path / "f.jsonl", other))
    assert fine.warnings == ()
    assert load_pairs(jsonl(tmp_path / "g.jsonl", *MANY, MANY[0]), None, None).warnings == ()
