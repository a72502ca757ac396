"""The files that a project has for its users, beside its pages: what they say is of this version."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml
from pages import ROOT

import areal

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FORMS = [ROOT / ".github/ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]


def test_one_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert VERSION == headings[1] == citation()["version"] == areal.__version__


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_has_what_its_format_asks_for():
    """https://github.com/citation-file-format/citation-file-format, 1.2.0: what is required."""
    found = citation()
    assert found["cff-version"] == "1.2.0"
    assert found["license"] == "Apache-2.0"
    for work in (found, *found["references"]):
        assert work["title"]
        assert all(set(author) in ({"name"}, {"family-names", "given-names"}) for author in work["authors"])
    assert found["message"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_of_issues(form: Any):
    said = yaml.safe_load(form.read_text())
    assert set(said) == {"name", "description", "labels", "body"}
    fields = [part for part in said["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields)
    assert all(part["attributes"]["label"] for part in fields)
    for name in re.findall(r"[\w./-]+\.md\b", form.read_text()):
        assert (ROOT / name).is_file(), name
