"""Recipes fit the GPUs and go to the models that they are for, and give way to what is given."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from inventories import machine
from transformers import Qwen2Config

import areal
from areal import api, recipes
from areal.cli import main
from areal.config import load_config, parse_config, settings_on
from areal.config.settings import LearnerConfig
from areal.errors import UserError
from areal.models import resolve_model
from areal.placement.memory import Shape
from areal.placement.placement import place
from areal.recipes.choice import recipe_for
from areal.runtime.plan import strange_learning_rate, workload

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from models import QWEN2

SIZES = {name: {**QWEN2[name], "max_position_embeddings": 32768} for name in ("0.5b", "1.5b", "7b")}
GPUS = {"24gb": (1, 23.5), "48gb": (1, 44.4), "80gb": (1, 79.2), "8x80gb": (8, 79.2)}
"""How many GPUs, and the GiB that each really has."""


@pytest.fixture(scope="module")
def shapes() -> dict[str, Shape]:
    return {name: Shape.of(Qwen2Config(**sizes)) for name, sizes in SIZES.items()}


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., str]:
    """Make the folder of a model of some size, as far as it is looked into before a run."""

    def model(size: str, **more: Any) -> str:
        folder = tmp_path / size
        shutil.copytree(resolve_model("starter"), folder)
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(said | SIZES[size] | {"head_dim": None} | more))
        return str(folder)

    return model


@pytest.mark.parametrize("name", recipes.names())
def test_each_recipe_fits_its_gpus(name: str, shapes: dict[str, Shape]):
    size, gpus = name.split("-")
    config = load_config(values={"recipe": name, **recipes.read(name)})
    count, gib = GPUS[gpus]
    placement = place(machine(*[gib] * count), config)
    longest = config.rollout.max_model_len
    assert longest is not None
    found = placement.with_memory(shapes[size], workload(placement, config, longest))
    assert len(found.engines) == max(1, count - config.learner.processes)
    assert min(part.free for part in found.memory) > 0


def test_what_a_recipe_asks_for_is_needed(shapes: dict[str, Shape]):
    """7B parameters on 24 GB: in 4 bits and in FP8, or not at all."""
    recipe, inventory = recipes.read("7b-24gb"), machine(GPUS["24gb"][1])
    for group, name in (("learner", "base_precision"), ("engine", "quantization")):
        without = {key: value for key, value in recipe[group].items() if key != name}
        config = load_config(values=recipe | {group: without})
        placement = place(inventory, config)
        with pytest.raises(UserError, match="are missing"):
            placement.with_memory(shapes["7b"], workload(placement, config, 1024))


def test_each_recipe_says_what_was_measured():
    for name in recipes.names():
        assert re.search(r"[Mm]easured|[Nn]ever run", recipes.about(name)), name
        assert "memory plan" in recipes.about(name)


def test_parameters_are_about_those_of_the_model(shapes: dict[str, Shape]):
    for name, shape in shapes.items():
        assert recipes.parameters(SIZES[name]) == pytest.approx(shape.parameters, rel=0.1)
    assert recipes.parameters({}) == 0
    moe = {**SIZES["7b"], "num_experts": 8, "moe_intermediate_size": 18944}
    assert recipes.parameters(moe) > 5 * recipes.parameters(SIZES["7b"])
    nested = {"text_config": SIZES["0.5b"], "hidden_size": 7}
    assert recipes.parameters(nested) == recipes.parameters(SIZES["0.5b"])


@pytest.mark.parametrize(
    ("parameters", "gpus", "name"),
    [
        (1e6, [79.2], None),
        (0.14e9, [23.5], "0.5b-24gb"),
        (0.5e9, [], "0.5b-80gb"),
        (0.5e9, [79.2] * 8, "0.5b-8x80gb"),
        (0.5e9, [79.2] * 2, "0.5b-80gb"),
        (1.5e9, [47.0], "1.5b-24gb"),
        (1.5e9, [139.0], "1.5b-80gb"),
        (3e9, [23.5] * 8, "1.5b-24gb"),
        (7.6e9, [79.2] * 8, "7b-8x80gb"),
        (7.6e9, [79.2], "7b-48gb"),
        (7.6e9, [44.4], "7b-48gb"),
        (7.6e9, [23.5], "7b-24gb"),
    ],
)
def test_which_is_chosen(parameters: float, gpus: list[float], name: str | None):
    assert recipes.choose(parameters, gpus) == name


def test_a_model_larger_than_any_recipe():
    with pytest.raises(UserError, match=r"32B parameters.*recipe=none"):
        recipes.choose(32e9, [79.2] * 8)


def test_the_starter_and_what_was_trained_from_it_have_areals_own_defaults(tmp_path: Path):
    shutil.copytree(resolve_model("starter"), tmp_path / "trained")
    for model in ("starter", str(tmp_path / "trained")):
        config = api.resolve(None, None, {"model": model}, None)
        assert config.recipe is None
        assert config.rollout.max_new_tokens == 64


def test_a_real_model_does_not_have_the_starters(model: Callable[..., str]):
    config = api.resolve(None, ["learner.warmup_steps=3"], {"model": model("0.5b"), "device": "cpu"}, None)
    assert config.recipe == "0.5b-80gb"
    assert config.rollout.max_new_tokens == 1024
    assert config.learner.learning_rate < 1e-5
    assert config.learner.warmup_steps == 3, "what is given goes before it"
    own = api.resolve(None, None, {"model": config.model, "recipe": "none"}, None)
    assert own.rollout.max_new_tokens == 64


def test_an_evaluation_has_its_lengths_only(model: Callable[..., str]):
    config = api.resolve(None, None, {"model": model("7b")}, None, training=False)
    assert config.rollout.max_new_tokens == 1024
    assert config.learner == areal.config.Config().learner


def test_no_longer_than_the_model_is_made_for(model: Callable[..., str]):
    found = recipe_for({"model": model("0.5b", max_position_embeddings=512), "device": "cpu"})
    assert found["rollout"]["max_model_len"] == 512
    assert found["rollout"]["max_new_tokens"] == 256


def test_on_a_cpu_nothing_is_said_for_the_sake_of_gpus(model: Callable[..., str]):
    learner = recipe_for({"model": model("7b"), "device": "cpu"})["learner"]
    assert set(learner) & {"processes", "activation_checkpointing", "micro_batch_tokens"} == set()
    named = recipe_for({"model": "starter", "recipe": "7b-8x80gb"})["learner"]
    assert named["processes"] == 4, "one that is named is taken as it stands"


def test_a_resumed_run_takes_no_recipe(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("steps: 3\nrecipe: 0.5b-24gb\n")
    assert api.resolve(None, None, {}, tmp_path).rollout.max_new_tokens == 64, "its own settings are whole"
    with pytest.raises(UserError, match="remove the recipe"):
        api.resolve(None, ["recipe=none"], {}, tmp_path)


def test_a_dry_run_says_where_each_setting_comes_from(
    model: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "my.yaml").write_text('chat: {system: "one\\ntwo: 3 # four"}\nlearner: {kl: 0.01}\n')
    given = [
        "--config",
        str(tmp_path / "my.yaml"),
        "--model",
        model("0.5b"),
        "--steps",
        "7",
        "--device",
        "cpu",
    ]
    printed = dry_run([*given, "learner.clip=0.1", "env_options.difficulty=2"], capsys)
    for line in (
        "steps: 7  # command line",
        "  clip: 0.1  # command line",
        "env_options: {difficulty: 2}  # command line",
        f"  kl: 0.01  # {tmp_path / 'my.yaml'}",
        "  aggregation: token-mean  # preset decoupled-ppo",
        "  clip_high: 0.1  # preset decoupled-ppo",
        "  max_new_tokens: 1024  # recipe 0.5b-80gb",
        "recipe: 0.5b-80gb  # recipe 0.5b-80gb",
        "seed: 0  # default",
    ):
        assert f"\n{line}\n" in f"\n{printed}"
    assert "# recipe 0.5b-80gb: responses of up to 1,024 tokens" in printed
    read = yaml.safe_load(printed)
    assert read["chat"]["system"] == "one\ntwo: 3 # four"
    assert settings_on(load_config(values=read).model_dump(mode="json"), read)["learner"] == read["learner"]


def test_a_dry_run_leaves_nothing_open_that_a_preset_decides(capsys: pytest.CaptureFixture[str]):
    machine = {"micro_batch_tokens", "max_mismatch", "threads", "activation_checkpointing", "compile"}
    for preset in ("dapo", "ppo", "gspo"):
        learner = yaml.safe_load(dry_run([f"learner.objective={preset}"], capsys))["learner"]
        open_ones = {name for name, value in learner.items() if value is None}
        assert open_ones == {"turn_discount", *machine}


def dry_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["train", *words, "--dry-run"])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def test_a_dry_run_plans_for_gpus_that_are_not_there(
    model: Callable[..., str], capsys: pytest.CaptureFixture[str]
):
    seven = model("7b")

    def said(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["train", "--model", seven, *words])
        return "".join(capsys.readouterr())

    fits = said("--dry-run", "--on", "1x48")
    assert "recipe: 7b-48gb" in fits
    assert re.search(r" 0: 44\.4 GiB │ 0: \d+\.\d │ 0: \d+\.\d │ CUDA IPC ", fits)
    assert "recipe: 7b-8x80gb" in said("--dry-run", "--on", "8x80")
    assert "recipe: 7b-24gb" in said("--dry-run", "--on", "1x24")
    assert "GiB of GPU memory are missing" in said("--dry-run", "--on", "1x24", "recipe=none")
    for wrong in ("24", "0x24", "1x25"):
        assert f"'{wrong}' is not of the form COUNTxSIZE" in said("--dry-run", "--on", wrong)
    assert "add --dry-run" in said("--on", "1x24")
    for weights in Path(seven).glob("*.safetensors"):
        weights.unlink()
    assert said("--dry-run", "--on", "1x48") == fits
    assert "has no weights" in said("--dry-run")


@pytest.mark.parametrize(
    ("rate", "rank", "complaint"),
    [
        (5.0, 0, "learner.learning_rate=5 destroys the model within a few updates: it is above 0.001; usual"),
        (5.0, 8, "it is above 0.01; usual values are 1e-5 to 1e-3 for an adapter"),
        (0.002, 0, "destroys the model"),
        (1e-10, 0, "learner.learning_rate=1e-10 leaves the model as it is: it is below 1e-09; usual"),
        (1e-9, 8, "it is below 1e-08"),
        (1e-3, 0, ""),
        (1e-2, 8, ""),
        (0.002, 8, ""),
        (1e-9, 0, ""),
    ],
)
def test_a_learning_rate_far_from_all_that_train_is_warned_of(rate: float, rank: int, complaint: str):
    said = strange_learning_rate(LearnerConfig(learning_rate=rate, lora_rank=rank))
    assert complaint in said
    assert bool(said) is bool(complaint)


def test_what_areal_ships_with_warns_of_no_learning_rate():
    assert strange_learning_rate(LearnerConfig()) == ""
    for name in recipes.names():
        assert strange_learning_rate(parse_config(recipes.read(name)).learner) == "", name


def test_a_strange_learning_rate_is_told_with_the_plan(capsys: pytest.CaptureFixture[str]):
    def printed(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(["train", "--env", "math-v1", "--device", "cpu", "--dry-run", *words])
        return capsys.readouterr().out

    assert "# warning: learner.learning_rate=5 destroys" in printed("learner.learning_rate=5")
    assert "destroys" not in printed()
