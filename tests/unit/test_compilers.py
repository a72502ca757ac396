"""What a run compiles while it runs it can compile, or the run is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from areal.config import Config, parse_config
from areal.errors import UserError
from areal.rollout.vllm_start import EngineSettings, are_loaded, variables
from areal.runtime.compilers import require_compilers

COMPILED = {"learner": {"compile": True}, "engine": {"eager": False}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(path: Path, name: str) -> None:
    (path / name).touch(mode=0o755)


def test_nothing_is_compiled_on_a_cpu(path: Path):
    require_compilers(Config(), "cpu", {"PATH": str(path)})
    made = EngineSettings("starter", "cpu", "float32", 64, 1, 1.0, (0,))
    assert variables(made)["TORCHDYNAMO_DISABLE"] == "1"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"learner": {"compile": True}},
            ["learner.compile=true: ", "apt install", "CXX=", "remove this setting"],
        ),
        ({"engine": {"eager": False}}, ["engine.eager=false: ", "remove this setting"]),
        (COMPILED, ["learner.compile=true and engine.eager=false", "remove these settings"]),
    ],
)
def test_where_a_setting_asks_for_it(settings: dict, words: list[str], path: Path):
    config = parse_config(settings)
    with pytest.raises(UserError) as refused:
        require_compilers(config, "cpu", {"PATH": str(path)})
    for word in words:
        assert word in str(refused.value)
    program(path, "g++")
    require_compilers(config, "cpu", {"PATH": str(path)})
    with pytest.raises(UserError):
        require_compilers(config, "cpu", {"PATH": str(path), "CXX": "g++-99"})


def test_on_a_gpu(path: Path, tmp_path: Path):
    names, headers = {"PATH": str(path)}, str(tmp_path)
    with pytest.raises(UserError, match="needs a C compiler"):
        require_compilers(Config(), "cuda", names, headers)
    program(path, "cc-12")
    with pytest.raises(UserError, match="needs a C compiler"):
        require_compilers(Config(), "cuda", names, headers)
    with pytest.raises(UserError, match=r"Python\.h"):
        require_compilers(Config(), "cuda", {**names, "CC": "cc-12 -O2"}, headers)
    program(path, "clang")
    (tmp_path / "Python.h").touch()
    require_compilers(Config(), "cuda", names, headers)


def test_a_fork_serves_where_this_process_has_what_vllm_would_preload(tmp_path: Path):
    ours = torch._C.__file__
    (tmp_path / "link.so").symlink_to(ours)
    assert are_loaded("")
    assert are_loaded(f"{tmp_path}/link.so:{ours}")
    assert not are_loaded(f"{ours} {tmp_path}/libtcmalloc.so")
