"""The script that completes areal, in a real bash."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from areal import cli
from areal.completion import script

SCRIPT = script(cli.make_parser())
SPLIT = {"--env=ma": ["--env", "=", "ma"], "device=c": ["device", "=", "c"], "device=": ["device", "="]}
"""To bash these are several words, where it completes."""


def offered(line: str, folder: Path) -> list[str]:
    """Return what is offered for the last word of a line."""
    words = [part for word in line.split(" ") for part in SPLIT.get(word, [word])]
    listed = " ".join(map(shlex.quote, words))
    run = f"{SCRIPT}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _areal\n"
    run += "printf '%s\\n' \"${COMPREPLY[@]}\""
    out = subprocess.run(["bash", "--norc"], input=run, capture_output=True, text=True, cwd=folder)
    assert out.stderr == ""
    return out.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("areal tr", ["train"]),
        ("areal eval r", ["rescore", "recipe=", "rollout.batch_size="]),
        ("areal eval --benchmark gs", ["gsm8k"]),
        ("areal eval rescore --", ["--json"]),
        ("areal eval compare --m", ["--markdown"]),
        ("areal env ", ["init", "list", "show", "check", "try"]),
        ("areal env check --t", ["--time-limit"]),
        ("areal train rollout.gr", ["rollout.group_size="]),
        ("areal train env_opt", ["env_options."]),
        ("areal train steps=3 --agent sin", ["single-turn"]),
        ("areal train --env=ma", ["math-v1"]),
        ("areal train device=c", ["cpu", "cuda"]),
        ("areal train device=", ["auto", "cpu", "cuda"]),
        ("areal train learner.decoupled=t", ["learner.decoupled=true"]),  # as zsh has it, in one word
        ("areal train env_options.data=pro", ["env_options.data=problems.jsonl"]),
        ("areal train --model ", []),  # the shell offers files
        ("areal export rollout.gr", []),  # it takes no settings
        ("areal env try rollout.gr", []),
    ],
)
def test_words(line: str, expected: list[str], tmp_path: Path):
    (tmp_path / "problems.jsonl").touch()
    found = offered(line, tmp_path)
    assert found[: len(expected)] == expected
    if "eval r" not in line:
        assert found == expected


def test_every_command_and_option_is_offered(tmp_path: Path):
    assert set(offered("areal ", tmp_path)) == {
        *(n for n in cli.make_parser().commands if " " not in n),
        "--version",
    }
    for name, command in cli.make_parser().commands.items():
        for option in command._option_string_actions:
            if option.startswith("--") and option != "--help":
                assert option in offered(f"areal {name} {option}", tmp_path)


def test_shellcheck_has_nothing_to_say():
    checker = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([checker, "-s", "bash", "-"], input=SCRIPT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["completion"])
    assert ended.value.code == 0
    # Other tests of this process may have registered names since.
    assert capsys.readouterr().out == script(cli.make_parser())
