"""`areal sandbox check` says what there is, and finds out when it does not hold."""

from __future__ import annotations

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
    report = check.Report("full", "…", 7, 3.0, proofs)
    assert not report.strong
    text = "\n".join(report.lines())
    assert "BROKEN  reads a file" in text
    assert "1 of 2 attacks held; NOT strong" in text


def test_an_attack_that_succeeds_is_seen(sandbox):
    assert not check._proof(sandbox, "does what it may", "return True").held
    assert check._proof(sandbox, "does not", "return False").held


def test_no_sandbox_at_all_is_said():
    assert list(check.Report(None, "no Linux").lines()) == ["local sandbox: none (no Linux)"]
