"""The page of the Python API: which names are on it. mkdocstrings writes each from its docstring.

All of ``areal.__all__`` has to be there (tests/unit/test_site.py).
"""

from __future__ import annotations

_ABOUT = """# Python API

The functions and classes for programs of yours, made from their docstrings. Names that are not on this page
may change with any version. `import areal` is light: torch and vLLM are imported when something needs them.

```python
import areal

run = areal.train(env="math-v1", steps=60, rollout={"max_staleness": 2})
print(run.accuracy_before, run.accuracy_after, run.model)
```
"""

_NAMES = {
    "Training and evaluation": (
        *("areal.train", "areal.evaluate", "areal.evaluate_benchmarks", "areal.replay", "areal.export"),
        *("areal.results.Run", "areal.results.Evaluation", "areal.evaluation.report.Report"),
    ),
    "Environments, agents, benchmarks": (
        *("areal.register_env", "areal.register_agent", "areal.register_benchmark"),
        *("areal.registry.make_env", "areal.envs.text.UnicodeText"),
        *("areal.authoring.check.check_env", "areal.authoring.check.Finding"),
        *("areal.evaluation.benchmark.Benchmark", "areal.evaluation.benchmark.HubFile"),
    ),
    "What an agent sees": tuple(
        f"areal.agents.interface.{name}"
        for name in ("Agent", "Env", "Model", "Step", "Reply", "SamplingLimits", "Endpoint")
    ),
    "Verifiers": (
        *("areal.rewards.math.MathVerifier", "areal.rewards.code.CodeVerifier"),
        *("areal.rewards.code.AssertTests", "areal.rewards.code.Verdict", "areal.rewards.code.CaseVerdict"),
    ),
    "Sandbox": tuple(
        f"areal.sandbox.{name}"
        for name in (
            *("local_sandbox", "container_sandbox", "e2b_sandbox", "Sandbox", "SandboxSession"),
            *("SandboxLimits", "Job", "Calls", "Call", "Script", "Check"),
            *("Outcome", "Returned", "Raised", "Opaque", "SandboxUnavailable"),
        )
    ),
    "Recorded rollouts": tuple(f"areal.trajectory.{name}" for name in ("Group", "Episode", "Trajectory")),
    "Errors": tuple(
        f"areal.errors.{name}"
        for name in ("UserError", "WorkerLost", "EngineLost", "LearnerLost", "Interrupted")
    ),
}


def api_page() -> str:
    """Return the page, as Markdown with a line for each name that mkdocstrings replaces."""
    parts = [_ABOUT]
    for title, names in _NAMES.items():
        parts += [f"## {title}\n", *(f"::: {name}\n" for name in names)]
    return "\n".join(parts)
