"""``areal config``: every setting, group and preset in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from areal.cli import main
from areal.config.complaints import settings
from areal.config.objective import PRESETS
from areal.config.settings import Config


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "200")

    def explain(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["config", *words])
        out = capsys.readouterr()
        assert ended.value.code == status, out
        return out.out + out.err

    return explain


def test_all_settings_are_listed(explain: Callable[..., str]):
    listed = explain()
    for key in settings():
        assert ".".join(key) in listed


@pytest.mark.parametrize("width", ["40", "80"])
def test_keys_are_whole_on_a_narrow_terminal(
    width: str, explain: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", width)
    listed = explain("rollout")
    assert "…" not in listed
    assert all(".".join(key) in listed for key in settings() if key[0] == "rollout")


@pytest.mark.parametrize("key", [".".join(key) for key in settings()])
def test_each_setting_by_itself(key: str, explain: Callable[..., str]):
    out = explain(key)
    group, _, name = key.rpartition(".")
    if group:
        description = getattr(Config(), group).model_fields[name].description
        assert " ".join(description.split())[:40].replace("`", "") in " ".join(out.split())
        assert "value: " in out
        assert "default: " in out


def test_presets(explain: Callable[..., str]):
    assert "dapo: 0.28" in " ".join(explain("learner.clip_high").split())
    every = explain("learner.objective")
    assert all(f"{name}: " in every for name in PRESETS)
    assert "aggregation=sequence-mean" in explain("grpo")


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("gropo", "did you mean 'grpo'"),
        ("num_generations", "did you mean 'rollout.group_size'"),
        ("learner.clp", "did you mean 'learner.clip'"),
        ("color", "known here: env,"),
    ],
)
def test_what_is_none(key: str, word: str, explain: Callable[..., str]):
    line = explain(key, status=2)
    assert word in line
    assert line.count("\n") == 1
