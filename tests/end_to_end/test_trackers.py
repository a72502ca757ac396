"""Trackers of a real run: each metric of metrics.jsonl, and no word of theirs on the terminal."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("mlflow")


def test_trackers_have_what_the_run_has(tmp_path: Path):
    settings = ["evaluation.problems=16", "rollout.batch_size=16", "trackers=[tensorboard,mlflow]"]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-m", "areal", "train", "--steps", "2", "--name", "r", *settings],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "r"
    own = [line for line in done.stderr.splitlines() if "tensorboard" in line or "mlflow" in line.lower()]
    assert sorted(own) == [f"mlflow: {store}", "tensorboard: runs/r/tensorboard"]

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (name, row["step"], value)
        for row in rows
        for name, value in row.items()
        if name != "step" and value is not None
    }
    assert {step for name, step, _ in expected if name.startswith("eval/")} == {0, 2}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    shown = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert shown.keys() == {(name, step) for name, step, _ in expected}
    for name, step, value in expected:
        assert math.isclose(shown[name, step], value, rel_tol=1e-6), (name, step)
    [text] = (e.tensor_proto.string_val[0].decode() for e in events.Tensors("rollouts/text_summary"))
    consumed = [
        json.loads(line) for line in (run / "rollouts" / "step-000001.jsonl").read_text().splitlines()
    ]
    assert all(f"group {group['id']}, " in text for group in consumed[:4])
    assert "<|assistant|>" in text

    from mlflow import MlflowClient

    client, known = MlflowClient(store), (run / "trackers" / "mlflow").read_text()
    for name in {name for name, _, _ in expected}:
        kept = {(m.step, m.value) for m in client.get_metric_history(known, name.replace("@", "_"))}
        assert kept == {(step, value) for key, step, value in expected if key == name}, name
    assert client.get_run(known).info.status == "FINISHED"
