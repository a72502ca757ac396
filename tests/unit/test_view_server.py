"""The page over HTTP: who may ask, what is answered, and how `areal view` begins and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from viewed_runs import START, make_run, metrics

from areal import cli
from areal.telemetry.run_directory import CONFIG
from areal.telemetry.status import identity, write_status
from areal.viewer.app import make_app
from areal.viewer.assets import read_assets
from areal.viewer.guard import Guard
from areal.viewer.watched import watch

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), steps=3).path


@pytest.fixture(scope="module")
def app(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_app(watch([str(run)], tmp_path_factory.mktemp("cache")))


@pytest.fixture
def client(app: Any) -> TestClient:
    return TestClient(Guard(app, LOOPBACK), "http://127.0.0.1:8000")


def test_the_page_and_its_files(client: TestClient):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in read_assets():
        assert client.get(f"/assets/{name}").status_code == 200
    assert client.get("/assets/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert client.get("/api/states").json()["runs"][0]["step"] == 3
    assert client.get("/api/rollouts?run=run&from=2&to=2&sort=reward&limit=5").json()["count"] == 8
    assert client.get("/api/timeline?run=run").json()["updates"]["step"] == [1, 2, 3]
    assert client.get("/api/timeline?run=run&last=1").json()["updates"]["step"] == [3]
    part = client.get("/api/timeline?run=run&from=2&to=2").json()
    assert {step for _, step, _, _ in part["groups"]} == {2}
    assert client.get("/api/settings").json()["run"]["env"] == "math-v1"


def test_prometheus_gets_the_last_value_of_each_metric(tmp_path: Path):
    runs = {name: make_run(tmp_path, name, steps=3) for name in ("one", 'two "2"')}
    write_status(runs["one"].path, {**identity(), "time": time.time(), "ended": ""})
    runs["one"].log_metrics(
        {"step": 4, "reward/mean": 0.25, "eval/avg@1": 0.5, "eval/avg.1": 0.75, "x": "no"}
    )
    runs["one"].log_metrics({"step": 5, "lr": float("nan"), "\x1b]\n# HELP": 1.0})
    made = make_app(watch([str(run.path) for run in runs.values()], tmp_path / "cache"))
    answer = TestClient(Guard(made, LOOPBACK), "http://127.0.0.1:8000").get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        family.name: {sample.labels["run"]: sample.value for sample in family.samples}
        for family in text_string_to_metric_families(answer.text)
    }
    assert found["areal_reward_mean"]["one"] == 0.25
    assert found["areal_reward_mean"]['two "2"'] == pytest.approx(metrics(3)["reward/mean"])
    assert found["areal_step"] == {"one": 5.0, 'two "2"': 3.0}
    assert found["areal_running"] == {"one": 1.0, 'two "2"': 0.0}
    assert found["areal_eval_avg_1"]["one"] == 0.5, "two metrics would have this name"
    assert found["areal_lr"]["one"] == metrics(3)["lr"], "the last that is a number"
    assert "areal_x" not in found
    assert any("HELP" in name for name in found), "a name with a line break is one name"


def test_browsers_are_told_to_be_strict(client: TestClient):
    for path in ("/", "/assets/main.js", "/api/states", "/nothing", "/api/group?run=none"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../index.py",
        "/assets/%2e%2e/server.py",
        "/assets/..%2f..%2fcli.py",
        "/assets//etc/passwd",
        "/assets/uplot/LICENSE",
        "/config.yaml",
        "/api/states/../../config.yaml",
        "/api/metrics?run=../run",
        "/api/metrics?run=/etc",
        "/api/timeline?run=../run",
        "/api/timeline?run=/etc&from=1&to=2",
        "/api/group?run=run&step=1&group=77",
    ],
)
def test_what_is_not_there(client: TestClient, path: str):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "query", ["step=x", "from=nan", "to=1e400", "least=a", "limit=0", "limit=100000", "skip=-1", "sort=env"]
)
def test_what_is_no_question(client: TestClient, query: str):
    path = "group" if query.startswith("step") else "rollouts"
    assert client.get(f"/api/{path}?run=run&{query}").status_code == 400


@pytest.mark.parametrize("query", ["from=x", "to=nan", "last=1e400", "last=soon"])
def test_what_is_no_part_of_a_timeline(client: TestClient, query: str):
    assert client.get(f"/api/timeline?run=run&{query}").status_code == 400


def test_it_is_read_only(client: TestClient):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/api/states", "/api/timeline?run=run"):
            assert client.request(method, path).status_code == 405
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:80"]
)
def test_another_name_that_leads_here_is_refused(client: TestClient, host: str):
    assert client.get("/api/states", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_are_served(client: TestClient, host: str):
    assert client.get("/api/states", headers={"host": host}).status_code == 200


def test_others_need_the_token(app: Any):
    client = TestClient(Guard(app, (), "s3cret"), "http://10.0.0.1:8000")
    assert client.get("/s3cret/").status_code == 200
    assert client.get("/s3cret/api/states").status_code == 200
    for path in ("/", "/api/states", "/s3cret", "/s3cre/", "/s3crets/", "/S3CRET/", "//s3cret/", "/%ff/"):
        found = client.get(path)
        assert (found.status_code, "s3cret" in found.text) == (404, False), path


def start(*words: str | Path, cwd: Path, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "areal", "view", *map(str, words)]
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_from_its_line_to_ctrl_c(tmp_path: Path):
    for started, name in enumerate("edcba"):  # of five the newest four are shown
        config = make_run(tmp_path / "runs", name, steps=2).path / CONFIG
        os.utime(config, (START + started, START + started))
    for host in ("127.0.0.1", "0.0.0.0"):
        server = start("--host", host, cwd=tmp_path, cache=tmp_path / "cache")
        try:
            line = server.stdout.readline()
            names, address, *_ = line.replace(": ", " ").replace(", ", ",").split()
            assert names == "d,c,b,a"
            url = httpx.URL(address).copy_with(host="127.0.0.1")
            token = url.path.strip("/")
            assert (len(token) > 20) == (host == "0.0.0.0")
            assert [each["name"] for each in httpx.get(url.join("api/states")).json()["runs"]] == list("dcba")
            bare = httpx.get(url.copy_with(path="/api/states"))
            assert bare.status_code == (404 if token else 200)
            server.send_signal(signal.SIGINT)
            out, error = server.communicate(timeout=60)
            assert (server.returncode, out, error) == (130, "", "areal: stopped\n")
        finally:
            server.kill()
            server.communicate()


def test_what_cannot_be_shown_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, line in (
            ((str(tmp_path),), "is not a run directory"),
            ((str(run), "none"), "none does not exist"),
            ((), "cannot read the folder runs"),
            ((str(run), "--port", port), f"cannot serve on 127.0.0.1, port {port}: Address already in use"),
            ((str(run), "--port", "70000"), "--port 70000: give a number"),
            ((str(run), "--host", "192.0.2.1"), "cannot serve on 192.0.2.1"),
            ((str(run), "--export", "none/report.html"), "give a file in an existing folder"),
        ):
            with pytest.raises(SystemExit) as ended:
                cli.main(["view", *words])
            error = capsys.readouterr().err
            assert (ended.value.code, error.count("\n")) == (2, 1), error
            assert line in error
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["view", str(run)])
    error = capsys.readouterr().err
    assert "set XDG_CACHE_HOME to a writable folder" in error
    assert (ended.value.code, error.count("\n")) == (2, 1), error
