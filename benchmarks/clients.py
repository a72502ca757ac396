"""Checks which client packages work with the endpoint unchanged, each in its own environment.

    python benchmarks/clients.py [--only litellm,vercel] [--folder ~/.cache/areal/clients]

A client consists of a program in benchmarks/client_programs/ and the packages that it needs. On the first
run, uv or npm installs these packages as they were on a fixed day. The installation needs network access and
some gigabytes. The endpoint, the recorder, the chat template (Qwen2.5's) and the tokenizer are those of
training. The engine is scripted. It calls each tool in its prompt once, with arguments that fit the tool's
schema. It then responds with one sentence, or with JSON if the prompt asks for a Person. If the prompt
contains a script, "Say [...]", the engine responds with that script instead.

Each program tries several uses and reports for each use whether it worked. Afterwards, every sampled response
must be in exactly one trajectory. The column "exact" shows whether this is the case. The column "turns" has
the number of turns of each trajectory.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import parser, save

sys.path.append(str(Path(__file__).parents[1] / "tests" / "unit"))
from chat import renderer, tokenizer

from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.recorder import Recorder

PROGRAMS = Path(__file__).with_name("client_programs")
AS_OF = "2026-11-29"
"""The packages and their dependencies are those of this day. Later releases have no effect."""
FOLDER = Path("~/.cache/areal/clients").expanduser()
TEMPLATE = "qwen2.5"
LIMIT = 300.0
"""Time limit for all uses of a client, in seconds."""
_SCRIPT = re.compile(r"^Say (\[.*\])$", re.MULTILINE)
_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)
_LAST = {"final_answer", "final_result", "Person"}
"""Tools with which frameworks finish. The engine calls them after all other tools."""


@dataclass(frozen=True)
class Client:
    """A client: a program and the packages that it needs.

    Attributes:
        program: file name of the program in benchmarks/client_programs.
        packages: the packages that uv or npm installs for the program.
        node: whether the program needs Node.js.
    """

    program: str
    packages: tuple[str, ...]
    node: bool = field(default=False)


CLIENTS = {
    "openai, anthropic": Client("sdks.py", ("openai", "anthropic", "pydantic")),
    "mistral": Client("with_mistral.py", ("mistralai", "pydantic")),
    "litellm": Client("with_litellm.py", ("litellm", "pydantic")),
    "pydantic-ai": Client("with_pydantic_ai.py", ("pydantic-ai-slim[openai,anthropic]",)),
    "instructor": Client("with_instructor.py", ("instructor[anthropic]", "openai")),
    "smolagents": Client("with_smolagents.py", ("smolagents[openai]",)),
    "langchain": Client("with_langchain.py", ("langchain", "langchain-openai", "langchain-anthropic")),
    "llama-index": Client("with_llama_index.py", ("llama-index-core", "llama-index-llms-openai-like")),
    "autogen": Client("with_autogen.py", ("autogen-agentchat", "autogen-ext[openai]")),
    "dspy": Client("with_dspy.py", ("dspy",)),
    "crewai": Client("with_crewai.py", ("crewai",)),
    "strands": Client("with_strands.py", ("strands-agents[openai,anthropic]",)),
    "agno": Client("with_agno.py", ("agno", "openai", "anthropic")),
    "openai-agents": Client("with_openai_agents.py", ("openai-agents",)),
    "ag2": Client("with_ag2.py", ("ag2[openai]", "anthropic")),
    "inspect": Client("with_inspect.py", ("inspect-ai", "openai", "anthropic")),
    "lm-eval": Client("with_lm_eval.py", ("lm-eval[api]", "pydantic")),
    "mini-swe-agent": Client("with_mini_swe_agent.py", ("mini-swe-agent",)),
    "vercel": Client(
        "vercel.mjs",
        ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "zod"),
        node=True,
    ),
}


class Scripted:
    """An engine that reads its prompt and responds according to a script.

    Attributes:
        said: the token ids of each response.
    """

    version, busy_seconds = 0, 0.0

    def __init__(self) -> None:
        self._tokenizer = tokenizer(TEMPLATE)
        self.said: list[list[int]] = []

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        text = answer(self._tokenizer.decode(ids))
        said = [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id]
        self.said.append(said)
        return Completion(said, [-1.0] * len(said), [0] * len(said), "eos")


def answer(prompt: str) -> str:
    """Return the model's response to a prompt in Qwen2.5's chat template."""
    asked = prompt[: prompt.rfind("<|im_start|>assistant")]
    if script := _SCRIPT.search(asked):
        said = json.loads(script[1])[asked.count("<|im_start|>assistant")]
        return said if isinstance(said, str) else _made(_shown(prompt)[0]["name"], said)
    answered = "<tool_response>" in asked[asked.rfind("<|im_start|>user") :]
    shown = _shown(prompt)
    last = [tool for tool in shown if tool["name"] in _LAST]
    others = [tool for tool in shown if tool["name"] not in _LAST]
    if others and not answered:
        return _call(others[0])
    if last:
        return _call(last[0])
    return '{"name": "Ann", "age": 3}' if "Person" in prompt else "It is fine."


def _shown(prompt: str) -> list[dict[str, Any]]:
    for found in _TOOLS.finditer(prompt):
        try:
            return [json.loads(line)["function"] for line in found[1].splitlines()]
        except (ValueError, LookupError):  # the template's own words about tools
            continue
    return []


def _call(tool: dict[str, Any]) -> str:
    return _made(tool["name"], _fitting(tool.get("parameters", {}), {}))


def _made(name: str, arguments: dict[str, Any]) -> str:
    return f"I look.\n<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def _fitting(schema: dict[str, Any], known: dict[str, Any]) -> Any:
    """Return a value that fits a JSON schema."""
    known = known | schema.get("$defs", {})
    if "$ref" in schema:
        return _fitting(known[schema["$ref"].rpartition("/")[2]], known)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _fitting(schema["anyOf"][0], known)
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: _fitting(value, known) for name, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [_fitting(schema.get("items", {}), known)]
    return {"integer": 3, "number": 3, "boolean": True, "null": None}.get(kind, "Ann")


def place_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the folder in which a client is installed."""
    return folder / re.sub(r"\W+", "-", name)


def is_installed(client: Client, folder: Path) -> bool:
    """Return whether a folder contains the packages of a client, as of the fixed day."""
    done = folder / "installed"
    return done.exists() and done.read_text() == _wanted(client)


def _wanted(client: Client) -> str:
    return " ".join((AS_OF, *client.packages))


def installed(client: Client, folder: Path) -> list[str]:
    """Install the packages of a client if necessary, and return the command that runs the client."""
    folder.mkdir(parents=True, exist_ok=True)
    program, python = PROGRAMS / client.program, folder / "bin" / "python"
    with (folder / "lock").open("w") as lock:  # another checkout may install the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_installed(client, folder):
            if client.node:
                npm = ["npm", "install", "--silent", "--no-save", "--before", AS_OF]
                subprocess.run([*npm, *client.packages], cwd=folder, check=True)
            else:
                uv = [sys.executable, "-m", "uv"]
                made = [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder]
                subprocess.run(made, check=True)
                into = [*uv, "pip", "install", "--quiet", "--exclude-newer", AS_OF, "--python", python]
                subprocess.run([*into, *client.packages], check=True)
            (folder / "installed").write_text(_wanted(client))
        if not client.node:
            return [str(python), str(program)]
        beside = folder / program.name  # node looks for packages beside the program
        beside.write_text(program.read_text())
        return ["node", str(beside)]


async def tried(command: list[str]) -> dict[str, Any]:
    """Run a client's program on its own endpoint and return the results of its uses and of the recording."""
    engine: Any = Scripted()
    shown = tokenizer(TEMPLATE)
    server = EndpointServer(lambda ids: [shown.decode([each]) for each in ids], 1.0)
    model = Recorder(engine, renderer(TEMPLATE), Sampling(4096), 100_000, server)
    try:
        async with model.endpoint(10_000) as at:
            # No PYTHONPATH: areal's own folders have the names of some packages.
            names = {"BASE_URL": at.base_url, "API_KEY": at.api_key, "PYTHONPATH": ""}
            ran = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **names}
            )
            try:
                output, _ = await asyncio.wait_for(ran.communicate(), LIMIT)
            except TimeoutError:
                ran.kill()
                output = b""
            refused, reason = at.account.refused, at.account.refusal
    finally:
        await server.close()
    uses = [json.loads(line) for line in output.decode().splitlines() if line.startswith('{"use":')]
    trajectories = model.trajectories()
    recorded = sorted(t.tokens[begin:end].tolist() for t in trajectories for begin, end in responses_of(t))
    return {
        "worked": sum(use["ok"] for use in uses),
        "uses": uses,
        "ended": ran.returncode == 0,
        "turns": [len(t.turns) for t in trajectories],
        "exact": recorded == sorted(engine.said),
        "refused": refused,
        "refusal": reason,
    }


def responses_of(trajectory: Any) -> list[tuple[int, int]]:
    """Return the start and the end of each response, which ends at a prompt or at the next response."""
    mask, turns = trajectory.loss_mask.tolist(), list(trajectory.turns)
    spans = []
    for begin, after in zip(turns, [*turns[1:], len(mask)], strict=True):
        end = begin
        while end < after and mask[end]:
            end += 1
        spans.append((begin, end))
    return spans


def main() -> None:
    made = parser(__doc__, "clients")
    made.add_argument("--only", default=",".join(CLIENTS), help="names of the clients to run (default: all)")
    made.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        help=f"folder in which the clients are installed (default: {FOLDER})",
    )
    arguments = made.parse_args()
    wanted = [name for name in CLIENTS if any(each in name for each in arguments.only.split(","))]
    results = {}
    print("| client | worked | turns | exact | what failed |\n|---|---|---|---|---|")
    for name in wanted:
        found = results[name] = asyncio.run(tried(installed(CLIENTS[name], place_of(name, arguments.folder))))
        failed = "; ".join(f"{use['use']}: {use['said']}" for use in found["uses"] if not use["ok"])
        count = f"{found['worked']} of {len(found['uses'])}"
        print(f"| {name} | {count} | {found['turns']} | {found['exact']} | {failed} |", flush=True)
    save(arguments.output, "clients", results)


if __name__ == "__main__":
    main()
