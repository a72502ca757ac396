"""Client packages of others work on the endpoint unchanged, by the programs of benchmarks/clients.py.

Each has an environment of its own, below ~/.cache/areal/clients, which stays for the next time.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from clients import AS_OF, CLIENTS, installed, is_installed, place_of, tried

pytest.importorskip("uv")
TESTED = ["openai, anthropic", "mistral", "litellm", "pydantic-ai", "mini-swe-agent", "vercel"]


@functools.cache
def registry_is_reached(node: bool) -> bool:
    """Whether packages can be had here as of a day: asked of a small one, which no cache answers for."""
    if node:
        command = ["npm", "ping", "--fetch-retries", "0"]
    else:
        command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--reinstall", "--no-cache",
                   "--exclude-newer", AS_OF, "--python", sys.executable, "iniconfig"]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", TESTED)
async def test_all_uses_work_and_each_response_is_recorded_once(name: str):
    client, place = CLIENTS[name], place_of(name)
    if client.node and not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node.js here")
    if not is_installed(client, place) and not registry_is_reached(client.node):
        pytest.skip("no package registry can be reached from here that knows when packages came")
    found = await tried(installed(client, place))
    assert found["ended"], found
    assert len(found["uses"]) > 3
    assert [use for use in found["uses"] if not use["ok"]] == []
    assert found["exact"]
    sampled = len(found["uses"]) - found["refused"] - 2  # two uses of the SDKs sample nothing
    assert sum(found["turns"]) >= sampled
