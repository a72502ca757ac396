"""Bad input: one line that says what is wrong and what to do, exit status 2, nothing left behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from areal.cli import main
from areal.config import load_config
from areal.config.complaints import settings
from areal.config.describe import describe_group, groups
from areal.config.synonyms import OTHERWISE, SYNONYMS
from areal.errors import UserError

AREAL = [sys.executable, "-m", "areal"]


def message(status: int | str | None, stdout: str, stderr: str) -> str:
    assert status == 2, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    lines = stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("areal: error: ")
    return lines[0]


def refused(*arguments: str, cwd: Path) -> str:
    """Say what the command prints, in a process of its own."""
    out = subprocess.run([*AREAL, *arguments], capture_output=True, text=True, cwd=cwd)
    return message(out.returncode, out.stdout, out.stderr)


@pytest.fixture
def refused_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The same, in this process: for many cases, as each import takes a second."""
    monkeypatch.chdir(folder)

    def refused_here(*arguments: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        return message(exit.value.code, *capfd.readouterr())

    return refused_here


CASES = {
    "unknown environment": (["--env", "mth-v1"], ["unknown environment 'mth-v1'", "did you mean 'math-v1'"]),
    "unknown agent": (["--agent", "single-trun"], ["did you mean 'single-turn'"]),
    "missing model": (["--model", "./nowhere"], ["the folder", "nowhere' does not exist", "check the path"]),
    "no model": (["--model", "."], ["is not a model", "config.json"]),
    "unknown key": (["rollout.max_stalenes=4"], ["did you mean 'rollout.max_staleness'?"]),
    "abbreviated key": (["learner.lr=1"], ["'learner.lr'", "did you mean 'learner.learning_rate'"]),
    "key of another section": (["learner.batch_size=8"], ["did you mean 'rollout.batch_size'?"]),
    "key without section": (["threads=2"], ["did you mean 'engine.threads' or 'learner.threads'?"]),
    "unknown section": (["rolout.batch_size=4"], ["'rolout'", "did you mean 'rollout.batch_size'"]),
    "former name": (
        ["learner.recompute=true"],
        ["'learner.recompute' was renamed", "'learner.activation_checkpointing'"],
    ),
    "TRL's name": (["num_generations=8"], ["did you mean 'rollout.group_size'?"]),
    "verl's name": (["rollout.n=8"], ["did you mean 'rollout.group_size'?"]),
    "verl's path": (["actor_rollout_ref.actor.optim.lr=1"], ["did you mean 'learner.learning_rate'?"]),
    "TRL's passes": (["num_iterations=2"], ["areal trains on each batch once"]),
    "verl's size": (
        ["actor.ppo_mini_batch_size=32"],
        ["'learner.minibatches'", "batch size / mini-batch size"],
    ),
    "its name and dashes": (["max-completion-lenght=9"], ["did you mean 'rollout.max_new_tokens'?"]),
    "a name like none": (["learner.color=red"], ["known here: objective, advantage"]),
    "a setting as an option": (["--learner.clip=0.1"], ["without dashes: learner.clip=…"]),
    "another's option": (["--num-generations", "8"], ["did you mean 'rollout.group_size'?"]),
    "an option like none": (["--color"], ["no such option: --color (see `areal train --help`"]),
    "infinite": (["learner.learning_rate=inf"], ["learner.learning_rate='inf'", "finite"]),
    "no number": (["rollout.max_staleness=nan"], ["rollout.max_staleness='nan'"]),
    "no bound": (["learner.dual_clip=.nan"], ["learner.dual_clip=nan"]),
    "moments": (["learner.betas=[0.9, 1]"], ["learner.betas.1=1 must be less than 1"]),
    "one moment": (["learner.betas=[0.9]"], ["'learner.betas.1' is missing"]),
    "wrong type": (["steps=many"], ["steps='many' must be an integer"]),
    "wrong choice": (["learner.objective=gropo"], ["learner.objective='gropo'", "did you mean 'grpo'"]),
    "a choice in British spelling": (
        ["learner.advantage=group-normalised"],
        ["learner.advantage='group-normalised' must be 'group-normalized', ", "mean 'group-normalized'?"],
    ),
    "another choice": (["learner.dtype=fp16"], ["must be 'auto', 'float32' or 'bfloat16'"]),
    "group of one": (["rollout.group_size=1"], ["group_size=1", "group-normalized", "global-normalized"]),
    "no override": (["fast"], ["'fast' is not an override", "key.sub=value"]),
    "batch and group": (["rollout.batch_size=30"], ["30", "not a multiple", "group_size=8"]),
    "batch and minibatches": (["learner.minibatches=3"], ["learner.minibatches=3", "does not divide"]),
    "negative": (["rollout.max_staleness=-1"], ["rollout.max_staleness=-1 must be at least 0"]),
    "truncated sampling": (["rollout.top_p=0.9"], ["top_p", "the learner", "set evaluation.top_p"]),
    "greedy training": (["rollout.temperature=0"], ["rollout.temperature=0", "greater than 0"]),
    "empty stop string": (["rollout.stop=['']"], ["rollout.stop", "empty", "remove it"]),
    "thoughts of a model without": (["rollout.thinking_budget=9"], ["template", "does not mark thoughts"]),
    "a thought of no tokens": (["rollout.thinking_budget=7"], ["thinking_budget=7 must be at least 8"]),
    "no end of a thought": (["chat.thought_end=Enough."], ["chat.thought_end", "must contain </think>"]),
    "interruption": (["rollout.interruption=never"], ["'recompute', 'keep' or 'drain'"]),
    "half": (["rollout.max_staleness=1.5"], ["whole number"]),
    "environment option": (["env_options.color=red"], ["color", "areal env show math-v1"]),
    "difficulty": (["env_options.difficulty=99"], ["difficulty=99"]),
    "data": (["env_options.data=broken.jsonl"], ["broken.jsonl, line 2", "not valid JSON"]),
    "missing data": (["env_options.data=none.jsonl"], ["none.jsonl does not exist"]),
    "missing configuration": (["--config", "none.yaml"], ["none.yaml"]),
    "broken configuration": (["--config", "broken.yaml"], ["broken.yaml, line 3", "not valid YAML"]),
    "Latin-1 configuration": (["--config", "latin.yaml"], ["latin.yaml, line 2", "0xfc", "save it in UTF-8"]),
    "binary configuration": (["--config", "binary.yaml"], ["binary.yaml", "not valid YAML"]),
    "a folder as configuration": (["--config", "."], ["cannot read the configuration file ."]),
    "a list as configuration": (["--config", "list.yaml"], ["a mapping of settings is expected, not a list"]),
    "no GPU": (["--device", "cuda"], ["no GPU", "device=cpu"]),
    "resumed nowhere": (["--resume", "nowhere"], ["nowhere"]),
    "too long": (["rollout.max_new_tokens=5000"], ["5000", "no room"]),
    "too long an evaluation": (["evaluation.max_new_tokens=5000"], ["evaluation.max_new_tokens", "no room"]),
    "too long a model": (["rollout.max_model_len=5000"], ["5000", "the model's limit of 1024"]),
}


NUMBERS = {
    setting.key: setting.value
    for group in groups()
    for setting in describe_group(group)
    if re.match(r"(?<!whole )number", setting.value)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    (path / "broken.jsonl").write_text('{"problem": "1?", "answer": "1"}\n{oops\n')
    (path / "broken.yaml").write_text("steps: 3\nrollout: [\n")
    (path / "latin.yaml").write_bytes("steps: 3\nname: f\xfcnf\n".encode("latin-1"))
    (path / "binary.yaml").write_bytes(b"steps: 3\n\x00\x01\n")
    (path / "list.yaml").write_text("- steps: 3\n")
    return path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "run"])
def test_refused(case: str, dry: bool, folder: Path, refused_here: Callable[..., str]):
    import torch

    if case == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is one")
    arguments, words = CASES[case]
    before = sorted(folder.iterdir())
    line = refused_here("train", *arguments, *(["--dry-run"] if dry else []))
    for word in words:
        assert word in line
    assert sorted(folder.iterdir()) == before, "nothing is left behind"


@pytest.mark.parametrize(("name", "kind"), NUMBERS.items())
def test_every_number_is_one(name: str, kind: str):
    """No nan anywhere, and inf only where it bounds nothing."""
    with pytest.raises(UserError, match=name):
        load_config(overrides=[f"{name}=nan"])
    if "`inf`" not in kind:
        with pytest.raises(UserError, match="finite"):
            load_config(overrides=[f"{name}=inf"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_with_a_byte_order_mark(encoding: str, tmp_path: Path):
    (tmp_path / "c.yaml").write_text("steps: 3\nname: fünf\n", encoding=encoding)
    assert load_config(tmp_path / "c.yaml").name == "fünf"


def test_what_others_call_a_setting_is_one_of_ours():
    keys = {".".join(key) for key in settings()}
    assert not OTHERWISE.keys() & SYNONYMS.keys()
    ours = {key for key in SYNONYMS.values() if not key.startswith(("env_options.", "agent_options."))}
    assert ours <= keys
    assert not {name for name in SYNONYMS if [name] in settings()}, "it would hide ours"


def test_eval_is_checked_too(refused_here: Callable[..., str]):
    assert "did you mean" in refused_here("eval", "--env", "mth-v1")
    assert "evaluation.problems" in refused_here("eval", "--problems", "0")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_taken_name(more: Sequence[str], folder: Path, tmp_path: Path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    line = refused("train", "--name", "mine", *more, cwd=tmp_path)
    assert "mine" in line
    assert "--resume" in line


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--env", "mth-v1"),
        ("train", "--agent", "single-trun"),
        ("train", "--name", "mine"),
        ("eval", "--env", "mth-v1"),
        ("eval", "--benchmark", "gsm8"),
        ("eval", "nowhere", "--name", "a"),
        ("replay", "nowhere"),
    ],
    ids=" ".join,
)
def test_a_wrong_name_is_found_before_anything_heavy_is_imported(command: Sequence[str], tmp_path: Path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    code = (
        "import sys\nfrom areal.cli import main\n"
        f"try: main({list(command)!r})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'areal.workers.early') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert out.stderr.startswith("areal: error: ")
    assert out.stdout == "[]\n"


def test_dry_run_prints_a_configuration_that_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def dry_run(*words: str) -> str:
        with pytest.raises(SystemExit) as exit:
            main(["train", "--dry-run", *words])
        assert exit.value.code == 0
        return capfd.readouterr().out

    monkeypatch.chdir(tmp_path)
    first = dry_run("rollout.max_staleness=inf", "learner.learning_rate=1e-4")
    (tmp_path / "c.yaml").write_text(first)
    assert yaml.safe_load(dry_run("--config", "c.yaml")) == yaml.safe_load(first)
    assert "max_staleness: inf" in first
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys, json\nfrom areal.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(json.dumps([m for m in ('torch', 'vllm', 'transformers', 'sympy') if m in sys.modules]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out.splitlines()[-1]) == []
