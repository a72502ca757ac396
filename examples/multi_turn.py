r"""The agent ``multi-turn``: a wrong answer is said to be wrong, and the problem asked again.

    python examples/multi_turn.py [MODEL] [key.sub=value ...]

The same as ``areal train --env math-v1 --agent multi-turn env_options.max_turns=2``.
"""

from __future__ import annotations

import sys

import areal

if __name__ == "__main__":
    model, *overrides = sys.argv[1:] or ["starter"]
    run = areal.train(
        env="math-v1",
        env_options={"max_turns": 2},
        agent="multi-turn",
        model=model,
        overrides=overrides,
        show=True,
    )
    print(f"right within two answers: {run.accuracy_before} before, {run.accuracy_after} after")
