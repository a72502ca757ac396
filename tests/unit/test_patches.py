"""Unified diffs on texts: what git writes, what models write, and what does not fit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.envs.patches import PatchError, diff_in, patched

FILES = {"a.py": "one\ntwo\nthree\nfour\n", "b/c.py": "x\nx\ny\n"}


def after(files: dict[str, str], diff: str) -> dict[str, str]:
    changes = patched(files, diff)
    merged = {**files, **{path: text for path, text in changes.items() if text is not None}}
    return {path: text for path, text in merged.items() if changes.get(path, "") is not None}


LINES = st.lists(st.sampled_from(["a", "b", "-- a", "++ b", "", "@@ x", "\\ c", "é"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(LINES, LINES, LINES)
def test_what_git_writes_is_applied(tmp_path_factory, old: list[str], new: list[str], added: list[str]):
    folder: Path = tmp_path_factory.mktemp("repository")
    texts = [
        "".join(f"{line}\n" for line in lines) for lines in (["head", *old], ["head", *new], ["new", *added])
    ]
    for side, files in (("a", {"f": texts[0], "gone": "1\n"}), ("b", {"f": texts[1], "d/new": texts[2]})):
        for path, text in files.items():
            (folder / side / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / side / path).write_text(text)
    made = subprocess.run(
        ["git", "diff", "--no-index", "--no-renames", "a", "b"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    diff = (
        made.stdout.replace("a/a/", "a/")
        .replace("b/b/", "b/")
        .replace(" a/b/", " b/")
        .replace(" b/a/", " a/")
    )
    assert after({"f": texts[0], "gone": "1\n"}, diff) == {"f": texts[1], "d/new": texts[2]}


def test_lines_that_are_elsewhere():
    """A hunk is applied where its lines are, if that is one place."""
    diff = "--- a/a.py\n+++ b/a.py\n@@ -90,2 +90,2 @@ def f\n two\n-three\n+3\n"
    assert after(FILES, diff)["a.py"] == "one\ntwo\n3\nfour\n"
    twice = "--- a/b/c.py\n+++ b/b/c.py\n@@ -{},1 +1,1 @@\n-x\n+z\n"
    assert after(FILES, twice.format(2))["b/c.py"] == "x\nz\ny\n"
    with pytest.raises(PatchError, match="2 times"):
        patched(FILES, twice.format(7))


def test_renames():
    diff = "diff --git a/a.py b/d.py\n--- a/a.py\n+++ b/d.py\n@@ -1 +1 @@\n-one\n+1\n"
    assert after(FILES, diff) == {"b/c.py": FILES["b/c.py"], "d.py": "1\ntwo\nthree\nfour\n"}


@pytest.mark.parametrize(
    ("diff", "said"),
    [
        ("", "no change"),
        ("words", "no change"),
        ("--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n", "the file 'none' does not exist"),
        ("--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-five\n+b\n", "0 times"),
        ("--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n one\nwords\n", "does not begin with"),
        (
            "diff --git a/a.py b/e.py\nrename from a.py\nrename to e.py\n",
            "something other than changes of lines",
        ),
    ],
)
def test_what_does_not_fit(diff: str, said: str):
    with pytest.raises(PatchError, match=said):
        patched(FILES, diff)


def test_where_a_diff_is():
    diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
    assert diff_in(f"So:\n```diff\n{diff}```\nDone.") == diff
    assert diff_in(f"First\n```diff\nno\n```\nthen\n```patch\n{diff}") == diff
    assert diff_in(f"Words.\n{diff}") == diff
    assert diff_in(f"diff --git a/x b/x\nindex 1..2\n{diff}") == f"diff --git a/x b/x\nindex 1..2\n{diff}"
    assert diff_in("a\n--- b\nc") is None
