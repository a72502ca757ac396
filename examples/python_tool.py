"""The agent ``python-tool`` on arithmetic that is too hard for the model's head.

    python examples/python_tool.py [MODEL] [key.sub=value ...]

The same as ``areal train --env math-v1 --agent python-tool env_options.difficulty=5``. The model that ships
with areal has never called a tool; docs/agents.md has the command that teaches it the form in four minutes.
"""

from __future__ import annotations

import sys

import areal

if __name__ == "__main__":
    model, *overrides = sys.argv[1:] or ["starter"]
    run = areal.train(
        env="math-v1",
        env_options={"difficulty": 5},
        agent="python-tool",
        agent_options={"max_turns": 2},
        model=model,
        overrides=overrides,
        show=True,
    )
    print(f"right answers: {run.accuracy_before} before, {run.accuracy_after} after")
