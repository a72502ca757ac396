"""`areal sandbox check` says what there is, and finds out when it does not hold."""

from __future__ import annotations

import json

import pytest

from areal import cli
from areal import sandbox as public
from areal.sandbox import check


def test_the_report_of_this_host(sandbox):
    report = check.report()
    assert report.level == sandbox.backend.level
    assert report.strong
    assert len(report.proofs) >= 15
    text = "\n".join(report.lines())
    assert f"{len(report.proofs)} of {len(report.proofs)} attacks held; strong" in text
    assert "Landlock absent" not in text or report.level == "namespaces"


def test_a_sandbox_that_does_not_hold_is_called_broken():
    proofs = (check.Proof("reads a file", False, "returned True"), check.Proof("traces", True, "violation"))
    report = check.HostReport("full", "…", 7, 3.0, proofs)
    assert not report.strong
    text = "\n".join(report.lines())
    assert "BROKEN  reads a file" in text
    assert "1 of 2 attacks held; NOT strong" in text


def test_an_attack_that_succeeds_is_seen(sandbox):
    assert not check._proof(sandbox, "does what it may", "return True").held
    assert check._proof(sandbox, "does not", "return False").held


def test_no_sandbox_at_all_is_said():
    assert list(check.HostReport(None, "no Linux").lines()) == ["local sandbox: none (no Linux)"]


@pytest.mark.parametrize(
    ("level", "held", "code"), [("full", True, 0), ("full", False, 1), ("confined", True, 1)]
)
def test_the_command_says_by_its_exit_code_whether_it_is_strong(monkeypatch, capsys, level, held, code):
    report = check.HostReport(level, "why", 7, 3.0, (check.Proof("traces", held, "violation"),))
    monkeypatch.setattr(check, "report", lambda: report)
    with pytest.raises(SystemExit) as ended:
        cli.main(["sandbox", "check"])
    assert ended.value.code == code
    assert f"local sandbox: {level} (why)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["sandbox", "check", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["strong"], found["proofs"][0]["attack"]) == (code == 0, "traces")


def test_every_public_name_is_there():
    assert all(getattr(public, name) for name in public.__all__)
