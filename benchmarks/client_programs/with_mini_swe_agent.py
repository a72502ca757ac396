"""mini-swe-agent, a coding agent, with the prompts that it ships: by tools, by words, and by Responses."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MSWEA_SILENT_STARTUP": "1"}  # ask nobody else

from minisweagent.agents.default import DefaultAgent
from minisweagent.config import get_config_from_spec
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
from minisweagent.models.litellm_response_model import LitellmResponseModel
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel
from uses import KEY, URL, try_all

COMMANDS = [
    "printf 'def double(x):\\n    return 2 * x\\n' > double.py",
    "python3 -c 'import double; print(double.double(21))' > found.txt",
    "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat found.txt",
]
CALLS = [{"command": command} for command in COMMANDS]
WORDS = [f"THOUGHT: on.\n\n```mswea_bash_command\n{command}\n```" for command in COMMANDS]


def work(kind: Any, name: str, config: str, said: list[Any]) -> str:
    """Have the agent work in an empty folder; return what it submitted."""
    given = get_config_from_spec(config)
    access = {"api_base": URL, "api_key": KEY}
    options = {**given["model"], "cost_tracking": "ignore_errors"}
    options["model_kwargs"] = {**options.get("model_kwargs", {}), **access}
    agent = {name: value for name, value in given["agent"].items() if name != "mode"}  # who confirms
    with tempfile.TemporaryDirectory() as folder:
        made = DefaultAgent(
            kind(model_name=name, **options), LocalEnvironment(cwd=folder, **given["environment"]), **agent
        )
        submitted = made.run(f"Write double.py.\nSay {json.dumps(said)}\nThat is all.")["submission"]
        assert "2 * x" in Path(folder, "double.py").read_text()
    return submitted.strip()


USES = {
    "tools": lambda: work(LitellmModel, "openai/m", "mini.yaml", CALLS),
    "tools, anthropic": lambda: work(LitellmModel, "anthropic/m", "mini.yaml", CALLS),
    "words": lambda: work(LitellmTextbasedModel, "openai/m", "mini_textbased.yaml", WORDS),
    "responses": lambda: work(LitellmResponseModel, "openai/m", "mini.yaml", CALLS),
}
try_all(USES, dict.fromkeys(USES, "42"))
