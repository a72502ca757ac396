"""The command line: arguments and options in any order, and one line for an error."""

from __future__ import annotations

from itertools import chain, permutations

import pytest

from areal import cli
from areal.config import merged_settings

PIECES = {
    "train": [["--agent", "multi-turn"], ["env_options.max_turns=2"], ["--dry-run"], ["steps=3", "seed=1"]],
    "eval": [["--benchmark", "gsm8k"], ["env_options.difficulty=2"], ["--json"], ["rollout.stop=[x]"]],
    "eval rescore": [["RUN"], ["--json"], ["env_options.difficulty=2"], ["env_options.prompt=a b"]],
    "eval compare": [["A"], ["--json"], ["B"]],
    "replay": [["RUN"], ["--from-step", "2"], ["learner.clip=0.1"]],
    "env try": [["math-v1"], ["difficulty=2"], ["--episodes", "1"], ["--seed=4"], ["prompt=--x"]],
    "data show": [["PLACE"], ["subset=main"], ["--json"], ["-n", "1"], ["prompt=Q: {problem}"]],
    "env check": [["math-v1"], ["--time-limit", "2"], ["difficulty=2"]],
}
"""Of each command, words whose own order counts, and options, which may stand between any two."""


@pytest.mark.parametrize("command", PIECES)
def test_options_stand_anywhere(command: str):
    options = [piece for piece in PIECES[command] if piece[0].startswith("--")]
    words = [piece for piece in PIECES[command] if not piece[0].startswith("--")]
    expected = vars(cli.parse([*command.split(), *chain(*options), *chain(*words)]))
    tried = 0
    for order in permutations(PIECES[command]):
        if [piece for piece in order if piece in words] == words:
            assert vars(cli.parse([*command.split(), *chain(*order)])) == expected, order
            tried += 1
    assert tried >= 3


WRONG = {
    "": ["missing after 'areal'", "train", "env"],
    "trian": ["'areal trian'", "did you mean 'train'"],
    "env": ["missing after 'areal env'", "init", "check"],
    "env shwo": ["'areal env shwo'", "did you mean 'show'"],
    "train --stpes 3": ["--stpes", "did you mean '--steps'?"],
    "train steps=3 --stpes=3 seed=1": ["--stpes=3", "did you mean '--steps'?"],
    "train --rollout.group_size=4": ["without dashes: rollout.group_size=…"],
    "train --steps many": ["--steps", "'many'"],
    "train --steps": ["--steps", "expected one argument"],
    "env try --seed 1": ["required: ENV ("],
    "env show math-v1 code-v1": ["unexpected argument 'code-v1'"],
    "eval compare --json A --markdown B": ["--markdown", "not allowed with", "--json"],
    "replay RUN --foo-bar": ["--foo-bar"],
}


@pytest.mark.parametrize("command", ["replay", "env try", "env check", "data show", "eval rescore"])
def test_settings_may_stand_before_the_name(command: str):
    expected = vars(cli.parse([*command.split(), "NAME", "a=1", "b=2"]))
    for order in permutations(["NAME", "a=1", "b=2"]):
        if order.index("a=1") < order.index("b=2"):
            assert vars(cli.parse([*command.split(), *order])) == expected
    given = cli.parse([*command.split(), "x=1/NAME", "a=1"])
    assert given.__dict__.get("place", "x=1/NAME") == "x=1/NAME", "a name may have the sign, too"


def test_options_of_environments_are_not_listed_as_settings(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.parse(["env", "check", "math-v1", "--seed", "1"])
    assert "seed=" not in capsys.readouterr().err


@pytest.mark.parametrize("line", WRONG)
def test_what_is_no_command_line(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.parse(line.split())
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("areal: error: ")
    assert captured.err.count("\n") == 1
    for word in WRONG[line]:
        assert word in captured.err
    assert "(see `areal" in captured.err
    assert " --help`)" in captured.err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{label}", "{label}"),
        ("{reward_model[ground_truth]}", "{reward_model[ground_truth]}"),
        ("{problem}: quick!", "{problem}: quick!"),
        ("Q: {question}", "Q: {question}"),
        ("Compute: now", "Compute: now"),
        ("- {a}", "- {a}"),
        ('"{a}\\n{b}"', "{a}\n{b}"),
        ("{correct: 1.0, length: 0.1}", {"correct": 1.0, "length": 0.1}),
        ("{a: null}", {"a": None}),
        ("[{env: math-v1}]", [{"env": "math-v1"}]),
        ("[a, b]", ["a", "b"]),
        ("{}", {}),
        ("1e-5", 1e-5),
    ],
)
def test_templates_are_text_and_mappings_are_mappings(text: str, value: object):
    assert merged_settings(None, [f"env_options.x={text}"]) == {"env_options": {"x": value}}
