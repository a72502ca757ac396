"""Model names: each good one resolves, each bad one gets one line that says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from areal.config import parse_config
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.runtime.plan import plan

STARTER = Path(resolve_model("starter"))
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file of none."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / file, folder)
    return folder


def refused(name: object) -> str:
    with pytest.raises(UserError) as caught:
        resolve_model(str(name))
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_starter_is_whole():
    assert resolve_model("starter") == resolve_model(str(STARTER))


def test_importing_is_light():
    code = (
        "import sys, areal.models; print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_folder(model: Path, monkeypatch: pytest.MonkeyPatch):
    assert resolve_model(str(model)) == str(model)
    assert resolve_model(f"{model}/") == str(model)
    monkeypatch.chdir(model.parent)
    assert resolve_model("mine") == resolve_model("./mine") == str(model)
    monkeypatch.setenv("HOME", str(model.parent))
    assert resolve_model("~/mine") == str(model)


def test_run_directory_stands_for_its_model(model: Path):
    run = model.parent / "run"
    run.mkdir()
    model.rename(run / "model")
    assert resolve_model(str(run)) == str(run / "model")


def test_a_run_that_did_not_end_stands_for_its_last_whole_checkpoint(model: Path):
    run = model.parent / "run"
    for name in ("step-000009", "step-000010", ".partial-step-000011"):
        shutil.copytree(model, run / "checkpoints" / name / "model")
    (run / "checkpoints" / "step-000008").mkdir()
    last = run / "checkpoints" / "step-000010"
    assert resolve_model(str(run)) == str(last / "model")
    checked = plan(parse_config({"model": str(run), "device": "cpu"}), training=False)
    assert checked.config.model == str(last), "what a report names is what was measured"
    assert checked.notices[0] == f"{run} has no final model; using its last checkpoint, {last}"
    (last / "model").rename(last / "adapter")
    assert "contains only an adapter" in refused(run)
    shutil.rmtree(run / "checkpoints")
    (run / "config.yaml").write_text("env: math-v1\n")
    assert (
        "no model yet, because it ended before its first checkpoint; resume it with `areal train --resume "
        f"{run}`" in (refused(run))
    )
    model.rename(run / "model")
    assert resolve_model(str(run)) == str(run / "model")
    assert plan(parse_config({"model": str(run), "device": "cpu"}), training=False).notices == ()


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "org_1/a.b-c_d", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_hub_id_is_returned_as_it_is(name: str):
    assert resolve_model(name) == name


IMPOSSIBLE = ["", " ", " Qwen/x", "Qwen/x\n", "Qwen/x y", "a/b--c", "org/", "-a/b", "org/mod..", "a/b/c"]
IMPOSSIBLE += ["https://hf.co/Qwen/x", "Ω/x", "org/mod?el", "C:\\models\\x"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_names(name: str):
    assert refused(name)


def test_misspelt_starter():
    assert "did you mean 'starter'?" in refused("startr")
    assert "Org/Model" in refused("zzzzqqqq")


def test_missing_folder_names_its_sibling(model: Path, monkeypatch: pytest.MonkeyPatch):
    assert "did you mean 'mine'?" in refused(model.parent / "mime")
    assert "does not exist (nor does" in refused(model.parent / "no" / "mine")
    monkeypatch.chdir(model.parent.parent)
    # The shape of a hub id, but its first half is a folder here.
    assert "did you mean 'mine'?" in refused(f"{model.parent.name}/mime")


def test_file_instead_of_folder(model: Path):
    assert str(model) in refused(model / "config.json")


def test_no_config(model: Path):
    (model / "config.json").unlink()
    assert "neither config.json" in refused(model)
    (model / "adapter_config.json").write_text("{}")
    assert f"areal models merge {model} FOLDER" in refused(model)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no model_type and no architectures"),
        ('{"model_type": "llama"}', "no architectures"),
        ('{"architectures": ["X"]}', "no model_type"),
    ],
)
def test_bad_config(model: Path, text: str, complaint: str):
    (model / "config.json").write_text(text)
    assert complaint in refused(model)


def test_bad_weights(model: Path):
    weights = model / "model.safetensors"
    weights.write_bytes(b"")
    assert "empty" in refused(model)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(model)
    whole = (STARTER / "model.safetensors").read_bytes()
    for garbage in (b"weights", b"\xff" * 5000, whole[100:], whole[:4]):
        weights.write_bytes(garbage)
        assert "is not a safetensors file" in refused(model)
    for damaged in (whole[:-1], whole + b" "):
        weights.write_bytes(damaged)
        assert "is truncated or damaged" in refused(model)
    weights.write_bytes(whole)
    assert resolve_model(str(model))
    weights.unlink()
    assert "no weights" in refused(model)
    (model / "pytorch_model.bin").write_bytes(b"weights")
    assert resolve_model(str(model))


def test_missing_shard(model: Path):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (model / "model.safetensors").rename(model / names[0])
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"lacks 1 of 2 weight files, such as {names[1]}" in refused(model)
    (model / names[1]).write_bytes(NO_TENSORS)
    assert resolve_model(str(model))


def test_no_tokenizer(model: Path):
    (model / "tokenizer.json").unlink()
    assert "no tokenizer" in refused(model)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_tokenizer(model: Path, text: str):
    (model / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer") as caught:
        load_tokenizer(str(model))
    assert "\n" not in str(caught.value)


def test_hub_that_cannot_be_reached():
    # In a process of its own: the hub's client reads the switch once, when it is imported.
    code = (
        "from areal.models import load_tokenizer\nfrom areal.errors import UserError\n"
        "try: load_tokenizer('areal-tests/no-such-model')\nexcept UserError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin"}
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip()
    assert out.startswith("cannot load 'areal-tests/no-such-model'")
    assert "\n" not in out
