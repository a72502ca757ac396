"""What is built of areal, installed where nothing else is, works as far as it goes without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from pages import ROOT

LATE = {"huggingface-hub", "matplotlib", "safetensors", "torch", "transformers"}
"""What areal needs, but imports only where it is used: heavy, and left out here."""
SMOKE = """
import re, sys, gymnasium, areal
env = gymnasium.make("math-v1")
observation, info = env.reset(seed=0)
answer = eval(re.search(r"[-+ 0-9]+\\d", observation)[0])
assert env.step(f"\\\\boxed{{{answer}}}")[1] == 1.0, observation
env.close()
import areal.agents.single_turn, areal.envs.code, areal.rewards.math, areal.sandbox
assert not {"torch", "transformers", "matplotlib"} & set(sys.modules)
print(areal.__file__)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    reached = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder / "pip", "hatchling"]
    if subprocess.run(list(map(str, reached)), capture_output=True).returncode:
        pytest.skip("no package index can be reached from here")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


def run(*command: str | Path, status: int = 0, cwd: Path | None = None) -> str:
    """Run a command as in a shell that knows nothing of this checkout."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    out = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env)
    assert out.returncode == status, out.stdout + out.stderr
    return out.stdout + out.stderr


def interpreter(version: str) -> str:
    """Find a Python of a version, in PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        if (
            found
            and subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0
        ):
            return str(found)
    pytest.skip(f"there is no Python {version} here")


def test_the_wheel_has_every_file(built: Path):
    (wheel,) = built.glob("*.whl")
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("areal/")}
    assert packed == set(files())


def test_the_sdist_has_what_comes_beside_the_code(built: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    beside = {name for name in packed if name and not name.startswith("areal/")}
    assert beside == {
        *("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md"),
        *("PKG-INFO", "pyproject.toml", ".gitignore"),
    }
    assert {*files()} <= packed


def test_the_wheel_names_its_license(built: Path):
    (wheel,) = built.glob("*.whl")
    with ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(about).decode()
        assert about.replace("METADATA", "licenses/LICENSE") in archive.namelist()
    assert "License-Expression: Apache-2.0" in metadata


def files() -> Iterator[str]:
    for folder, folders, names in os.walk(ROOT / "areal", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (str((Path(folder) / name).relative_to(ROOT)) for name in names)


@pytest.mark.parametrize(
    ("version", "form"), [("3.11", "*.whl"), pytest.param("3.13", "*.tar.gz", marks=pytest.mark.long)]
)
def test_installed_in_an_empty_environment(version: str, form: str, built: Path, tmp_path: Path):
    (package,) = built.glob(form)
    python = environment(interpreter(version), tmp_path / "env")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    light = [line for line in needed if re.match(r"[\w-]+", line)[0] not in LATE]
    # With the pip of here: to install another one takes longer than all the rest.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile"]
    run(*pip, *light)
    run(*pip, "--no-deps", package)
    areal, empty = python.with_name("areal"), tmp_path / "empty"
    empty.mkdir()
    assert str(tmp_path) in run(python, "-c", SMOKE, cwd=empty)
    assert "train" in run(areal, "--help")
    assert "math-v1" in run(areal, "env", "list")
    assert "my_env/env.py" in run(areal, "env", "init", "my-env", cwd=empty)
    assert "rules hold" in run(areal, "env", "check", "my-env", cwd=empty)
    assert "attacks held" in run(areal, "sandbox", "check")
    output = run(areal, "train", status=2, cwd=empty)
    missing = re.match(
        r"areal: error: (\w+) is not installed; install it with pip install 'areal-gym\[cpu\]'", output
    )
    assert missing is not None, output
    assert missing[1].replace("_", "-") in LATE
    assert output.count("\n") == 1
    assert [path.name for path in empty.iterdir()] == ["my-env"], "nothing is left behind"


def environment(python: str, folder: Path) -> Path:
    run(python, "-m", "venv", "--without-pip", folder)
    return folder / "bin" / "python"
