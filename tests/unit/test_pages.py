"""Every block of every page is true of the code: see tests/pages.py for what is done with which."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from openenv_running import openenv_server
from pages import LANGUAGES, PAGES, ROOT, RUN_PAGES, Block, blocks
from seeing import make
from verifiers_running import verifiers_python
from viewed_runs import make_record

from areal import api, cli, commands, registry
from areal.config import Config, merged_settings, parse_config
from areal.errors import DISTRIBUTION
from areal.evaluation.benchmark_data import find_benchmark
from areal.models import resolve_model

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BLOCKS = [block for page in PAGES for block in blocks(page)]
CHECKED = [
    b
    for b in BLOCKS
    if b.language == "sh" and not b.title and (b.page not in RUN_PAGES or b.directive == "check")
]
INLINE = re.compile(r"(?<!`)`(python\s+(?:benchmarks|scripts)/[a-z][^`]*|areal\s+(?!error)[a-z][^`]*)`(?!`)")

FILES = {"log", "md", "py", "yaml"}
"""Endings of files that are called like groups of settings, such as engine.log."""

SUMS = "\n".join(json.dumps({"problem": f"1 + {n}?", "answer": str(1 + n)}) for n in range(20))
PROGRAM = {"code": "def f(a):\n    return a", "test_list": ["assert f(1) == 1"], "task_id": 11}
PROGRAMS = "\n".join(json.dumps({"text": f"Return it, version {n}.", **PROGRAM}) for n in range(20))
COUNT = {"type": "integer", "minimum": 0}
GROUP: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rayStartParams", "template"],
    "properties": {
        "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
        "template": {"type": "object", "required": ["spec"]},
    },
}
WORKERS = dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), COUNT) | {"groupName": {"type": "string"}}
RAY_JOB: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["entrypoint", "rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "rayClusterSpec": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["headGroupSpec", "workerGroupSpecs"],
                    "properties": {
                        "headGroupSpec": GROUP,
                        "workerGroupSpecs": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                **GROUP,
                                "required": [*GROUP["required"], *WORKERS],
                                "properties": GROUP["properties"] | WORKERS,
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What a RayJob of ours may have: of KubeRay's fields those that the page uses, with their types."""
SKY_TASK: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["num_nodes", "resources", "setup", "run"],
    "properties": {
        **{name: {"type": "string"} for name in ("name", "setup", "run")},
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"accelerators": {"type": "string", "pattern": "^[A-Z0-9]+:[0-9]+$"}},
        },
    },
}
"""Likewise, a task of SkyPilot's."""
STAGE = {
    "problems.jsonl": SUMS,
    "openai/gsm8k": SUMS,
    "mbpp.jsonl": PROGRAMS,
    "my.yaml": "steps: 50\n",
    "my_tools.py": (
        'def lookup(word: str) -> str:\n    """Look up.\n\n    Args:\n        word: What.\n    """\n'
    ),
    "my_package/parts.py": "def politeness(answer):\n    return 1.0\n",
    "path/to/file.py": (
        "class MyAgent:\n    def __init__(self, depth): ...\n    async def run(self, env, model): ...\n"
    ),
}
"""What pages speak of as the reader's own: a file for each, with the least that it needs."""
MODELS = (
    *("MODEL", "M", "FOLDER", "Qwen/Qwen2.5-0.5B-Instruct", "runs/latest/model"),
    *("runs/starter-agents", "runs/starter-tools"),
)
"""Models that pages speak of; here each is the starter."""
SEES = "runs/seeing"
"""One that sees."""
THINKS = "Qwen/Qwen3-0.6B"
"""One that thinks: the starter, with a template that says so."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the pages find what they speak of."""
    folder = tmp_path_factory.mktemp("stage")
    for name, text in STAGE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in MODELS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(resolve_model("starter"))
    shutil.copytree(resolve_model("starter"), folder / THINKS)
    shutil.copytree(make("qwen2_5_vl", tmp_path_factory.mktemp("seeing")), folder / SEES)
    (folder / THINKS / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# until </think> -#}"
    )
    make_record(folder / "sessions.jsonl")
    (folder / "runs/latest/config.yaml").write_text("steps: 100\n")
    (folder / "runs/latest/starts.jsonl").write_text('{"step": 1}\n')
    for name in ("examples", "scripts", "benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_is_of_a_kind_that_is_tested(page: Path):
    found = list(blocks(page))
    for block in found:
        assert block.language in LANGUAGES, f"{block}: no test knows what to do with '{block.language}'"
        assert block.title or block.language not in ("yaml", "json"), f'{block}: give the file title="NAME"'
        assert block.language != "text" or page in RUN_PAGES, f"{block}: of which run?"
        if block.title:
            others = "".join(other.text for other in found if other is not block)
            assert block.title in others, f"{block}: nothing on the page uses {block.title}"


@pytest.mark.parametrize("block", CHECKED, ids=str)
def test_commands(block: Block, stage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(stage)
    monkeypatch.syspath_prepend(stage)
    for other in blocks(block.page):
        if other.title:
            (stage / other.title).write_text(other.text)
    for words in block.commands():
        check_command(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_a_sentence(page: Path, monkeypatch: pytest.MonkeyPatch):
    """Options that a sentence names are there, too; what stands for a value (ID, RUN) may be anything."""
    monkeypatch.chdir(ROOT)
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for found in INLINE.findall(text):
        words = shlex.split(found)
        if words[0] == "python":
            check_script(words[1:], monkeypatch)
        else:
            known_options(words[1:], found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_within_a_sentence(page: Path):
    """Settings of others that are called like ours stand behind an ellipsis: `…rollout.n`."""
    sections = {
        name: field.default_factory for name, field in Config.model_fields.items() if field.default_factory
    }
    groups = {
        name: set(group.model_fields) for name, group in sections.items() if hasattr(group, "model_fields")
    }
    unknown = [
        f"{group}.{name}"
        for group, name in re.findall(rf"`({'|'.join(groups)})\.([a-z_]+)(?:=[^`]*)?`", page.read_text())
        if name not in groups[group] | FILES
    ]
    assert unknown == []


def known_options(words: list[str], command: str) -> None:
    """Check the command's name and its options; a sentence leaves out what must be given."""
    leaves = {tuple(name.split()[1:]): parser for name, parser in all_parsers(cli.make_parser()).items()}
    name = next((key for n in (2, 1) if (key := tuple(words[:n])) in leaves), None)
    assert name is not None, f"no command: {command}"
    options = {option for action in leaves[name]._actions for option in action.option_strings}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options, command


def all_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = {parser.prog: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= all_parsers(inner)
    return found


def check_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match words:
        case [variable, *rest] if re.match(r"[A-Z_]+=", variable):
            check_command(rest, monkeypatch)
        case ["areal" | "scripts/areal", *rest]:
            check_areal(rest, monkeypatch)
        case ["python", script, *rest]:
            check_script([script, *rest], monkeypatch)
        case ["pip", "install", "-e", _] | [".", ".venv/bin/activate"]:
            pass
        case ["docker", "run", *_] | ["phoenix", "serve"]:  # servers of others, that traces are sent to
            pass
        case ["curl" | "echo", *_]:  # calls of the endpoint: test_endpoint_clients.py makes them
            pass
        case ["pip", "install", what] if extra := re.fullmatch(rf"{DISTRIBUTION}\[(.+)\]", what):
            assert set(extra[1].split(",")) <= set(EXTRAS)
        case ["ray", command, *rest]:
            ray = pytest.importorskip("ray.scripts.scripts", reason="needs ray, of areal-gym[ray]")
            ray.cli.commands[command].make_context(command, rest)
        case ["sbatch", script]:
            check_shell(Path(script).read_text(), monkeypatch)
        case ["sky", "launch", "-c", _, file]:
            check_sky(yaml.safe_load(Path(file).read_text()), monkeypatch)
        case ["kubectl", "apply", "-f", file]:
            manifest = yaml.safe_load(Path(file).read_text())
            jsonschema.validate(manifest, RAY_JOB)
            for group in (cluster := manifest["spec"]["rayClusterSpec"])["workerGroupSpecs"]:
                assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                check_pod(group["template"]["spec"])
            check_command(shlex.split(manifest["spec"]["entrypoint"]), monkeypatch)
        case [script, *_] if script.startswith("scripts/"):
            assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be run"
        case _:
            pytest.fail(f"no test knows how to check the command {words}: run its page, or teach this test")


def check_shell(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a script by its shell and by shellcheck, and each command of Ray's or ours in it."""
    body = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
    assert subprocess.run(["bash", "-n"], input=body, text=True).returncode == 0
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC2086: numbers and addresses need no quotes.
    found = subprocess.run([shellcheck, "-e", "SC2086", "-"], input=body, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    joined = script.replace("\\\n", " ")
    for line in re.findall(r"(?:areal|ray start) [^;&|\n]*", joined):
        for name, value in (("SLURM_NNODES", "2"), ("SKYPILOT_NUM_NODES", "2"), ("head", "host")):
            line = line.replace(f"${name}", value)
        check_command(shlex.split(line), monkeypatch)


def check_sky(task: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema.validate(task, SKY_TASK)
    check_command(shlex.split(task["setup"]), monkeypatch)
    check_shell(task["run"], monkeypatch)


def check_pod(spec: dict[str, Any]) -> None:
    """Check a pod by Kubernetes' own schema, where that is installed, and that its mounts are its volumes."""
    mounts = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}
    with suppress(ModuleNotFoundError):  # 100 MB: pip install kubernetes-validate
        import kubernetes_validate

        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, "1.30", strict=True)


def check_areal(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command, and do of it what needs no engine."""
    given = cli.parse(words)
    match words:
        case ["train" | "eval", *_] if given.ray:
            at = words.index("--ray")  # the cluster is not here
            check_areal([*words[:at], *words[at + 2 :]], monkeypatch)
        case ["train", *_] if any("localhost:8000" in word for word in words):
            with openenv_server() as server:
                here = [word.replace("http://localhost:8000", f"{server}/sums") for word in words]
                finished([*here, "--dry-run"])
        case ["train", *_] if "verifiers-v1" in words:
            python = verifiers_python(monkeypatch)
            names = {"vf/bin/python": python, "my-tasks": "toy-sums"}
            for name, here in names.items():
                words = [word.replace(f"={name}", f"={here}") for word in words]
            finished([*words, "--dry-run"])
        case ["train", *_]:
            finished([*words, "--dry-run"])
        case ["eval", "rescore" | "compare", *_] | [
            "replay" | "export" | "serve" | "status" | "show" | "runs" | "view",
            *_,
        ]:
            pass  # parsed, which is all that can be said without the run that they need
        case ["sandbox" | "workers" | "models", *_]:
            pass  # parsed, which is all that can be said without the run that they need
        case ["eval", *_]:
            check_eval(given)
        case ["env", "check" | "try", *_]:
            registry.find_env(given.name)
        case ["env" | "data" | "config" | "completion", *_]:
            finished(words)
        case _:
            pytest.fail(f"no test knows how to check areal {words[0]}: teach this one")


def finished(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0, words


def check_eval(given: argparse.Namespace) -> None:
    commands.take_run(given)
    names = {n: f"evaluation.{n}" for n in ("problems", "samples", "temperature")}
    settings = commands.settings_of(given, names)
    config = parse_config(merged_settings(given.config, given.overrides, settings))
    for name in (given.benchmark or "").split(","):
        if name not in ("", "list"):
            find_benchmark(name)
    if "://" not in config.model:
        api.check(config, training=False)


class Parsed(Exception):
    """A script has read its arguments."""


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script of the repository read its arguments, and no more."""
    script = ROOT / words[0]
    assert script.is_file(), f"there is no {words[0]}"
    read = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any) -> None:
        read(self, *args)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", words)
        patch.syspath_prepend(script.parent)
        with pytest.raises(Parsed):
            runpy.run_path(str(script), run_name="__main__")


WITHOUT_TRAINING = """
import areal, areal.api, areal.results, pathlib
def train(env=None, **settings):
    config = areal.api.check(areal.api.resolve(None, None, {"env": env, **settings}, None)).config
    return areal.results.Run(pathlib.Path(), config, pathlib.Path(), [], None, None)
areal.train = train
"""
"""Before a page's Python: training checks its settings, and that is all."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python(page: Path, stage: Path):
    found = [b for b in blocks(page) if b.language == "python" and not b.title]
    if not found:
        return
    source = "\n".join(block.text for block in found)
    undefined = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"],
        input=source, capture_output=True, text=True,
    )  # fmt: skip
    assert undefined.returncode == 0, f"{page.name}: {undefined.stdout}"
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAINING + source], cwd=stage, capture_output=True, text=True
    )
    assert run.returncode == 0, f"{page.name}: {run.stderr}"
