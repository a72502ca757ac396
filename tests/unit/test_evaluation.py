"""Kept evaluations with a scripted endpoint: resumed after a kill, scored again, compared; data and names."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import areal
from areal import registry
from areal.agents.interface import BadRequest
from areal.api import evaluate_benchmarks, settings_of_run
from areal.cli import main
from areal.config import parse_config
from areal.errors import AgentFailure, EnvironmentFailure, UserError
from areal.evaluation import catalog
from areal.evaluation.benchmark import Benchmark, HubFile
from areal.evaluation.benchmark_data import digest_of, find_data
from areal.evaluation.comparison import compare
from areal.evaluation.conversations import (
    Chat,
    conversations_path,
    places,
    read_conversations,
    write_conversations,
)
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.endpoint_worker import EndpointModel
from areal.evaluation.rescore import rescore
from areal.evaluation.responses import ResponseFile, read_responses
from areal.images import to_png
from areal.rollout.engine import Sampling
from areal.telemetry.run_directory import RunDirectory
from areal.trajectory import Trajectory

PROBLEMS = 12


class Handler(BaseHTTPRequestHandler):
    """Adds: right, but for problems whose first number is a multiple of three; fails first where told."""

    server: Server

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        self._say({"data": [{"id": name} for name in self.server.models]} if known else "a page")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            failing = self.server.failures.pop() if self.server.failures else None
        if failing and failing[0]:
            self._say({"error": {"message": failing[1]}}, failing[0])
            return
        if len(self.server.bodies) > self.server.answered:
            self.server.going_on.wait()
        a, b = map(int, re.findall(r"\d+", str(body["messages"][-1]["content"]))[:2])
        text = f"\\boxed{{{a + b + (a % 3 == 0)}}}"
        message = {"role": "assistant", "content": text}
        self._say(
            {
                "choices": [{"message": message, "finish_reason": "length" if a == 5 else "stop"}],
                "usage": {"completion_tokens": 7, "prompt_tokens": 9},
            }
        )

    def _say(self, data: Any, status: int = 200) -> None:
        out = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(out)))
        self.send_header("retry-after", "0")  # which counts where the request may be sent again
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.failures: list[tuple[int, str]] = []
        self.models = ["only"]
        self.answered, self.going_on = 10**9, threading.Event()
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that was killed is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.going_on.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a benchmark's data; the benchmark, always the same, looks for it in the current one."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(1, PROBLEMS + 1)]
    path = tmp_path / "data" / "sums.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = "Add: {problem} Use \\boxed{{}}."
    areal.register_benchmark(
        "sums", Benchmark("sums", "math-v1", "data/sums.jsonl", PROBLEMS, prompt, samples=2)
    )
    return path.parent


def evaluated(server: Server, name: str, **settings: Any) -> Any:
    return evaluate_benchmarks(["sums"], server.url, name=name, **settings)


def test_an_endpoint_is_evaluated_and_every_response_kept(sums: Path, server: Server):
    server.failures = [(503, "busy")]
    done = evaluated(server, "a")
    (report,) = done.reports
    assert (report.problems, report.samples, report.of) == (PROBLEMS, 2, PROBLEMS)
    assert report.accuracy == pytest.approx(8 / 12)
    assert report.passes[2][0] == pytest.approx(8 / 12)
    assert report.finish_counts == {"stop": 22, "length": 2}
    assert report.mean_length == 7
    header, responses = read_responses(done.path / "sums.jsonl")
    assert header.data == digest_of(sums / "sums.jsonl")
    assert [(a.problem, a.sample) for a in responses] == [(p, s) for p in range(PROBLEMS) for s in (0, 1)]
    assert responses[0].actions == ["\\boxed{3}"]
    body = server.bodies[-1]
    assert body["messages"][0]["content"].startswith("Add: ")
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == (
        "only",
        0.6,
        0.95,
        2048,
    )
    asked = {(b["messages"][0]["content"], b["seed"]) for b in server.bodies}
    assert len(asked) == PROBLEMS * 2, "each response has a seed of its own, the same when it is tried again"
    assert "0.667" in (done.path / "report.md").read_text()
    assert json.loads((done.path / "report.json").read_text())[0]["passes"]["2"][0] == pytest.approx(8 / 12)


def test_settings_of_conversations_reach_an_endpoint(sums: Path, server: Server):
    shot = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "\\boxed{2}"}]
    chat = {"system": "Be brief.", "examples": shot, "template_kwargs": {"enable_thinking": False}}
    done = evaluated(server, "c", chat=chat, **{"evaluation.samples": 1})
    for body in server.bodies:
        assert body["messages"][:-1] == [{"role": "system", "content": "Be brief."}, *shot]
        assert body["messages"][-1]["content"].startswith("Add: ")
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
    header, responses = read_responses(done.path / "sums.jsonl")
    assert header.chat == chat
    for line in conversations_path(done.path / "sums.jsonl").read_bytes().splitlines():
        [said] = read_conversations(line)
        assert isinstance(said, Chat)
        assert said.given == 4, "the examples are no responses"
        assert said.messages[-1] == {
            "role": "assistant",
            "content": responses[json.loads(line)["problem"]].actions[0],
        }
    evaluated(server, "d", **{"evaluation.samples": 1})
    assert "chat_template_kwargs" not in server.bodies[-1]
    assert len(server.bodies[-1]["messages"]) == 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"env": "CartPole-v1"}, "gym-text-v1 env_options.env=CartPole-v1"),
        ({"env": "math-v1", "env_options.data": "bad.jsonl"}, r"line 1, column \d+: not valid JSON"),
        ({"env": "math-v1", "env_options.data": "one.jsonl"}, "has no held-out problem"),
    ],
)
def test_data_that_cannot_be_asked_ends_an_evaluation_before_it_begins(
    sums: Path, server: Server, settings: dict[str, Any], complaint: str
):
    Path("bad.jsonl").write_text("{\n")
    Path("one.jsonl").write_text('{"problem": "1?", "answer": "1"}\n')
    with pytest.raises(UserError, match=complaint):
        evaluate_benchmarks([], server.url, name="e", **settings)
    assert server.bodies == []
    assert not Path("runs/eval/e").exists()


def test_an_evaluation_killed_goes_on_where_it_was(sums: Path, server: Server, tmp_path: Path):
    server.answered = PROBLEMS
    folder = tmp_path / "runs" / "eval" / "k"
    (tmp_path / "mine.py").write_text(
        "import areal, sys\nfrom areal.api import evaluate_benchmarks\n"
        "from areal.evaluation.benchmark import Benchmark\n"
        "prompt = 'Add: {problem} Use \\\\boxed{{}}.'\n"
        f"mine = Benchmark('sums', 'math-v1', 'data/sums.jsonl', {PROBLEMS}, prompt, samples=2)\n"
        "areal.register_benchmark('sums', mine)\n"
        "evaluate_benchmarks(['sums'], sys.argv[1], name='k', overrides=['rollout.max_concurrent=2'])\n"
    )
    process = subprocess.Popen([sys.executable, "mine.py", server.url], cwd=tmp_path, stderr=subprocess.PIPE)
    file = folder / "sums.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with file.open("a") as end:
        end.write('{"problem": 3, "sam')  # a line that the kill cut off
    _, before = read_responses(file)
    assert 4 <= len(before) < PROBLEMS * 2
    server.going_on.set()
    asked = len(server.bodies)
    done = evaluate_benchmarks([], resume=folder)
    # A request of the killed process may arrive late; its response was not kept, so that it comes again.
    again = {(body["messages"][0]["content"], body["seed"]) for body in server.bodies[asked:]}
    assert len(again) == PROBLEMS * 2 - len(before), "nothing is sampled twice"
    _, responses = read_responses(file)
    assert all(response in responses for response in before)
    known = [(problem, sample) for problem, sample, _, _ in places(conversations_path(file))]
    assert set(known) == {(problem, sample) for problem in range(PROBLEMS) for sample in range(2)}
    whole = evaluated(server, "w").reports[0]
    assert done.reports[0].scores == whole.scores
    assert done.reports[0].seconds == 0.0, "the speed of a part says nothing"


def test_scored_again_without_sampling_and_compared(
    sums: Path, server: Server, capsys: pytest.CaptureFixture[str]
):
    done, asked = evaluated(server, "a"), len(server.bodies)
    options = {"rewards": {"correct": 1.0, "format": 0.5}}
    again = rescore(done.path, options)
    assert again.reports[0].accuracy == pytest.approx(8 / 12 + 0.5)
    assert again.reports[0].parts == pytest.approx({"correct": 8 / 12, "format": 0.5})
    assert len(again.changed["sums"]) == PROBLEMS * 2
    assert read_responses(done.path / "sums.jsonl")[1][0].reward == 1.0, "the old file stays"
    with pytest.raises(SystemExit) as exit:
        main(["eval", "rescore", str(done.path), "--json"])
    assert exit.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert Path(shown["run"]) == done.path / "rescored-2"
    assert shown["reports"][0]["scores"] == done.reports[0].scores
    assert len(server.bodies) == asked
    (found,) = compare(done.path, again.path)
    assert (found.found.better, found.found.worse, found.found.equal) == (PROBLEMS, 0, 0)
    assert found.verdict == "B is better"
    with pytest.raises(SystemExit):
        main(["eval", "compare", str(done.path), str(done.path), "--markdown"])
    assert "| sums | 12 | 0.667 | 0.667 |" in capsys.readouterr().out


async def test_a_conversation_that_goes_on_is_one(sums: Path, server: Server):
    endpoint = await EndpointClient.connect(server.url)
    model = EndpointModel(endpoint, Sampling(16), {})
    begun = [{"role": "user", "content": "1 + 2"}]
    first = await model.chat(begun)
    await model.chat([*begun, first.message, {"role": "user", "content": "3 + 4"}])
    await model.chat([{"role": "user", "content": "5 + 6"}])
    await endpoint.close()
    assert [(len(said.messages), said.given) for said in model.conversations] == [(4, 1), (2, 1)]


async def test_pictures_are_sent_as_openai_has_them_and_recorded_in_words(sums: Path, server: Server):
    endpoint = await EndpointClient.connect(server.url)
    model = EndpointModel(endpoint, Sampling(16), {})
    png = to_png(np.zeros((8, 6, 3), np.uint8))
    parts = [{"type": "text", "text": "1 + 2"}, {"type": "image", "image": png}]
    await model.chat([{"role": "user", "content": parts}])
    await endpoint.close()
    [asked, shown] = server.bodies[-1]["messages"][0]["content"]
    url = shown["image_url"]["url"]
    assert (shown["type"], base64.b64decode(url.removeprefix("data:image/png;base64,"))) == ("image_url", png)
    assert asked == {"type": "text", "text": "1 + 2"}
    assert model.conversations[0].messages[0]["content"] == "1 + 2[image 6×8]"


def test_conversations_are_read_as_they_were_written(tmp_path: Path):
    tokens = np.arange(6, dtype=np.int32)
    mask = np.array([False, True, True, False, True, False])
    logprobs = np.where(mask, -0.123456, 0.0).astype(np.float32)
    versions = np.where(mask, 0, -1).astype(np.int32)
    said = Trajectory(tokens, mask, logprobs, versions, turns=[1, 4], rewards=[0.0, 1.0])
    chat = Chat([{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": None}], 1)
    path = tmp_path / "conversations" / "sums.jsonl"
    write_conversations(path, 7, 1, [said, chat])
    write_conversations(path, 8, 0, [])
    first, second = places(path)
    assert (first[:2], second[:2]) == ((7, 1), (8, 0))
    one, other = read_conversations(path.read_bytes()[first[2] : first[2] + first[3]])
    assert isinstance(one, Trajectory)
    assert (one.tokens.tolist(), one.loss_mask.tolist()) == (tokens.tolist(), mask.tolist())
    assert one.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert (one.versions.tolist(), one.turns, one.rewards) == (versions.tolist(), [1, 4], [0.0, 1.0])
    assert other == chat
    assert list(places(path, second[2])) == [second]
    for line in (b"{}", b"[]", b"no JSON", b'{"conversations": [{"tokens": [1]}]}', b"[" * 100_000):
        with pytest.raises(ValueError, match=r"conversations|JSON|Expecting"):
            read_conversations(line)


def test_a_folder_that_is_removed_ends_the_evaluation_in_one_line(sums: Path, server: Server):
    server.seconds, folder = 0.05, Path("runs/eval/a").absolute()

    def take_away() -> None:
        while len(server.bodies) < 4:
            time.sleep(0.01)
        shutil.rmtree(folder.rename("elsewhere"))  # at once: what is removed bit by bit may get a new file

    threading.Thread(target=take_away).start()
    with pytest.raises(UserError) as raised:
        evaluated(server, "a", rollout={"max_concurrent": 1})
    assert (
        str(raised.value)
        == f"{folder} no longer exists: it was removed or moved while the run was writing to it"
    )
    assert len(server.bodies) < PROBLEMS * 2, "it does not go on for nothing"
    assert not folder.exists()


def test_what_does_not_belong_together_is_refused(sums: Path, server: Server, tmp_path: Path):
    done = evaluated(server, "a")
    header, responses = read_responses(done.path / "sums.jsonl")
    with pytest.raises(UserError, match="already exists"):
        evaluated(server, "a")
    with pytest.raises(UserError, match=r"seed=0 instead of 5"):
        ResponseFile(done.path / "sums.jsonl", type(header)(**{**vars_of(header), "seed": 5}))
    with (sums / "sums.jsonl").open("a") as file:
        file.write('{"problem": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(UserError, match="no longer those of the evaluation"):
        rescore(done.path, {})
    other = evaluated(server, "b")
    with pytest.raises(UserError, match="responses to different problems"):
        compare(done.path, other.path)
    (done.path / "sums.jsonl").write_text(
        "".join((done.path / "sums.jsonl").read_text().splitlines(True)[:4])
    )
    with pytest.raises(UserError, match=r"has 3 of 24 responses; finish it with"):
        compare(done.path, other.path)
    with pytest.raises(UserError, match="is not an evaluation"):
        compare(tmp_path, other.path)
    with pytest.raises(UserError, match="none does not exist; give the folder of an evaluation"):
        compare(tmp_path / "none", other.path)
    with pytest.raises(UserError, match="none does not exist; give the folder of an evaluation"):
        evaluate_benchmarks([], resume=tmp_path / "none")
    assert responses


def vars_of(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in header.__slots__}


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ((404, "no such model"), "refuses 'only'"),
        ((401, "key"), "OPENAI_API_KEY"),
        ((400, "temperature is 1"), r"status 400.*temperature is 1.*set evaluation\.temperature"),
        ((422, "what?"), "status 422"),
        ((302, "elsewhere"), "status 302"),
        ((200, "no choices"), "answered without a message"),
    ],
)
def test_an_endpoint_that_refuses(sums: Path, server: Server, failure: tuple[int, str], text: str):
    server.failures = [failure] * 60
    with pytest.raises(UserError, match=text) as refused:
        evaluated(server, "a")
    assert "--resume" not in str(refused.value), "nothing was sampled"


def test_an_endpoint_that_refuses_later_keeps_what_it_gave(sums: Path, server: Server):
    server.failures = [(400, "enough")] * 10 + [(0, "")] * 14  # the last is the first
    with pytest.raises(
        UserError, match=r"enough.*the responses so far are kept; resume with `areal eval --resume .*eval/a`"
    ):
        evaluated(server, "a", rollout={"max_concurrent": 2})
    server.failures = []
    assert evaluate_benchmarks([], resume=Path("runs/eval/a")).reports[0].problems == PROBLEMS


def test_what_is_no_endpoint(sums: Path, server: Server):
    with pytest.raises(UserError, match=r"/models.*does not answer like an OpenAI-compatible endpoint"):
        evaluate_benchmarks(["sums"], server.url.replace("/v1", "/page"), name="a")
    with pytest.raises(UserError, match=r"applies its own chat template; remove chat\.keep_thoughts"):
        evaluated(server, "b", chat={"keep_thoughts": True})
    with pytest.raises(UserError, match=r"that another server samples; set rollout\.thinking_budget=null"):
        evaluated(server, "c", rollout={"thinking_budget": 100})


def test_an_environment_with_an_endpoint_needs_no_name(
    sums: Path, server: Server, capsys: pytest.CaptureFixture[str]
):
    data = str(sums / "sums.jsonl")
    options = {"data": data, "test_data": data}
    report = areal.evaluate("math-v1", server.url + "#only", env_options=options, show=False)
    assert report.accuracy == pytest.approx(2 / 3)
    words = ["eval", "--env", "math-v1", "--model", server.url, *(f"env_options.{k}={data}" for k in options)]
    with pytest.raises(SystemExit, match="0"):
        main([*words, "evaluation.problems=3"])
    said = capsys.readouterr()
    [place] = [line for line in said.out.splitlines() if "responses and reports: " in line]
    assert re.search(r"sums.jsonl: .*12 problems|sums.jsonl: .*read as", said.out + said.err), "its notices"
    assert len(read_responses(Path(place.split(": ")[1]) / "math-v1.jsonl")[1]) == 3


PROGRAM = """
import json, sys, urllib.request

for line in sys.stdin:
    given = json.loads(line)
    body = {"model": "m", "messages": [{"role": "user", "content": given["task"]}], **MORE}
    url, key = given["base_url"] + "/chat/completions", {"x-api-key": given["api_key"]}
    said = json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), key)))
    assert FINE, "unparseable"
    print(json.dumps({"answer": said["choices"][0]["message"]["content"]}), flush=True)
"""


def evaluated_program(sums: Path, server: Server, more: str = "{}", fine: str = "True") -> Any:
    """Evaluate a program that stays with the model behind the endpoint; nothing of it stays at the end."""
    program = sums.parent / "program.py"
    program.write_text(PROGRAM.replace("MORE", more).replace("FINE", fine))
    data, before = str(sums / "sums.jsonl"), set(psutil.Process().children())
    options = {"command": f"{sys.executable} -S {program}", "workers": 2}
    try:
        return evaluate_benchmarks(
            [], server.url, env="math-v1", env_options={"data": data, "test_data": data},
            agent="program", agent_options=options, rollout={"max_retries": 0},
        )  # fmt: skip
    finally:
        assert set(psutil.Process().children()) <= before


def test_a_program_is_evaluated_with_the_model_behind_an_endpoint(sums: Path, server: Server):
    counted = "said['usage']['completion_tokens'] == 7"
    done = evaluated_program(sums, server, more='{"temperature": 0.123}', fine=counted)
    [report] = done.reports
    assert (report.accuracy, report.failed, report.mean_length) == (pytest.approx(2 / 3), 0, 7)
    temperatures = {body["temperature"] for body in server.bodies}
    assert temperatures == {parse_config({}).evaluation.temperature}, "the wish is ignored, as in training"


def test_a_program_that_crashes_of_what_an_endpoint_said_has_failed_there(sums: Path, server: Server):
    done = evaluated_program(sums, server, fine="'7 + 8' not in given['task']")
    assert done.reports[0].failed == 1
    [failed] = [r for r in read_responses(done.path / "math-v1.jsonl")[1] if r.failure]
    assert "AssertionError: unparseable" in failed.failure
    assert (failed.reward, failed.finish, failed.parts) == (0, "failed", {})


def test_what_an_endpoint_cannot_give_a_program_ends_the_evaluation_in_one_line(sums: Path, server: Server):
    with pytest.raises(AgentFailure, match="an endpoint does not provide log-probabilities"):
        evaluated_program(sums, server, more='{"logprobs": True}')
    server.failures = [(400, "it has no such tool")] * 60
    with pytest.raises(AgentFailure, match="it has no such tool"):
        evaluated_program(sums, server)
    server.failures = [(401, "key")] * 60
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        evaluated_program(sums, server)


def test_a_run_is_evaluated_as_it_was_trained(sums: Path, server: Server):
    data = str(sums / "sums.jsonl")
    run = RunDirectory.create(
        parse_config(
            {
                "env_options": {"data": data, "test_data": data},
                "agent": "multi-turn",
                "agent_options": {"max_turns": 2},
                "rollout": {"max_new_tokens": 33},
                "evaluation": {"problems": 0, "samples": 2},
                "name": "trained",
            }
        )
    )
    taken = settings_of_run(run.path, None, ["evaluation.samples=3"], {})
    assert taken["model"] == str(run.path)
    assert parse_config(taken).evaluation.model_dump()["problems"] == 256, "which the run had turned off"
    assert (taken["agent"], taken["agent_options"]) == ("multi-turn", {"max_turns": 2})
    assert taken["evaluation"]["samples"] == 3
    other = settings_of_run(run.path, None, None, {"agent": "single-turn", "env": "code-v1"})
    assert (other["agent_options"], other["env_options"]) == ({}, {}), "they were of the others"
    alone = settings_of_run(run.path, None, None, {}, own_env=False)
    assert set(alone) == {"model", "engine", "device"}

    done = evaluate_benchmarks([], server.url, run=run.path, name="a")
    header, responses = read_responses(done.path / "math-v1.jsonl")
    assert (header.agent, header.sampling["max_new_tokens"], len(responses)) == (
        "multi-turn",
        33,
        2 * PROBLEMS,
    )
    assert evaluate_benchmarks(["sums"], server.url, run=run.path, name="b").reports[0].problems == PROBLEMS

    with pytest.raises(UserError, match=r"trained is a training run; evaluate its model with `areal eval "):
        compare(run.path, done.path)
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="not a header of an evaluation"):
        compare(run.path / "metrics.jsonl", run.path / "metrics.jsonl")


async def test_an_endpoint_that_is_not_there():
    with pytest.raises(
        UserError, match=r"127\.0\.0\.1:9/v1/ does not answer \(ConnectError.*check that it is running"
    ):
        await EndpointClient.connect("http://127.0.0.1:9/v1", tries=1)


async def test_a_request_that_may_succeed_later_is_sent_again(server: Server):
    endpoint = await EndpointClient.connect(server.url, tries=3)
    asked = {"messages": [{"role": "user", "content": "1 + 1"}]}
    for status in (408, 409, 429, 500, 503):
        server.failures = [(status, "later")] * 2
        assert (await endpoint.ask(asked))["choices"]
        assert server.failures == []
        server.failures = [(status, "later")] * 4
        with pytest.raises(UserError, match=f"does not answer .status {status}: .*later"):
            await endpoint.ask(asked)
        assert len(server.failures) == 1, "three tries, and no more"
    server.failures = [(400, "never")] * 2
    with pytest.raises(BadRequest, match=r"status 400: .*never"):
        await endpoint.ask(asked)
    assert len(server.failures) == 1
    await endpoint.close()


def test_a_problem_that_is_too_long_earns_nothing(sums: Path, server: Server):
    server.failures = [(400, "This model's maximum context length is 9 tokens")]
    report = evaluated(server, "a").reports[0]
    assert report.finish_counts["too_long"] == 1
    assert report.tokens_per_s > 0


def test_an_environment_that_raises_is_named_and_the_other_responses_are_kept(
    sums: Path, server: Server, tmp_path: Path
):
    (tmp_path / "bad.py").write_text(
        "from areal.envs.math import MathEnv\nclass Bad(MathEnv):\n    def step(self, action):\n"
        "        if '26' in action: raise OSError('no judge today')\n        return super().step(action)\n"
    )
    data = str(sums / "sums.jsonl")
    options = {"data": data, "test_data": data}
    with pytest.raises(
        EnvironmentFailure,
        match=r"environment 'bad.py:Bad': step in the task .*'index': 11.* raised OSError: no judge today "
        r"\(at .*bad.py:4\); the responses so far are kept; resume with `areal eval --resume .*eval/b`$",
    ):
        evaluate_benchmarks([], server.url, env="bad.py:Bad", env_options=options, name="b")
    _, responses = read_responses(tmp_path / "runs" / "eval" / "b" / "Bad.jsonl")
    assert {a.problem for a in responses} <= set(range(PROBLEMS - 1))
    asked = [b for b in server.bodies if "12 + 13" in b["messages"][0]["content"]]
    assert len(asked) == 3, "it was tried again"


def test_an_endpoint_with_several_models_needs_a_name(sums: Path, server: Server):
    server.models = ["one", "two"]
    with pytest.raises(UserError, match=r"serves 2 models; .*#NAME \(one, two\)"):
        evaluated(server, "a")
    assert evaluate_benchmarks(["sums"], server.url + "#two", name="b").reports[0].problems == PROBLEMS
    assert server.bodies[-1]["model"] == "two"


def test_bad_requests_leave_nothing_behind(sums: Path, server: Server, tmp_path: Path):
    for arguments, text in (
        ({"benchmarks": ["sumz"]}, "unknown benchmark 'sumz'; did you mean 'sums'"),
        ({"benchmarks": ["sums", "sums"]}, "named twice"),
        ({"benchmarks": ["sums"], "env": "math-v1"}, "not both"),
        ({"benchmarks": ["sums"], "overrides": ["rollout.max_new_tokens=9"]}, "evaluation.max_new_tokens"),
        ({"benchmarks": ["gsm8k"], "data": sums}, "has no file for benchmark 'gsm8k'; it needs gsm8k.jsonl"),
        ({"benchmarks": ["sums"], "data": sums / "nowhere"}, "the file or folder does not exist"),
    ):
        with pytest.raises(UserError, match=re.escape(text)):
            evaluate_benchmarks(model=server.url, **arguments)
    assert list((tmp_path / "runs" / "eval").iterdir()) == []
    with pytest.raises(UserError, match="not an evaluation that can be resumed"):
        evaluate_benchmarks([], resume=tmp_path)


def test_rows_are_chosen_and_known_by_a_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = HubFile("o/d", "0" * 40, "test.jsonl")
    held = tmp_path / "hub.jsonl"
    held.write_text('{"answer": "1", "problem": "a"}\n{"problem": "b", "answer": "2"}\n')
    asked = []

    def download(*place: str, **rest: str) -> str:
        asked.append((place, rest))
        return str(held)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    mine = Benchmark("mine", "math-v1", source, 1, "{problem}", keep=lambda row: row["answer"] == "2")
    data = find_data(mine, None, tmp_path / "data")
    assert asked == [(("o/d", "test.jsonl"), {"revision": "0" * 40, "repo_type": "dataset"})]
    assert data.source == f"hf://datasets/o/d@{'0' * 40}/test.jsonl"
    assert data.path.read_text() == '{"answer": "2", "problem": "b"}\n'
    held.write_text('{"problem": "b",   "answer": "2"}\n')
    assert digest_of(held) == data.digest, "of the rows, not of their text"


def test_the_hub_out_of_reach_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load hf://datasets/openai/gsm8k@7403.*--data FOLDER"):
        find_data(registry.benchmarks.get("gsm8k"), None, tmp_path)


def test_the_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        main(["eval", "--benchmark", "list"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    built_in = [found for found in vars(catalog).values() if isinstance(found, Benchmark)]
    assert {"gsm8k", "mbpp", "gpqa_diamond"} < {benchmark.name for benchmark in built_in}
    for benchmark in built_in:
        assert registry.benchmarks.get(benchmark.name) is benchmark
        assert benchmark.name in shown
        assert re.fullmatch("[0-9a-f]{40}", benchmark.source.revision) or benchmark.name == "minerva"
