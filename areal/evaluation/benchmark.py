"""A benchmark: problems from an exact source, an environment that asks and judges, and a way to sample.

>>> from areal import register_benchmark
>>> from areal.evaluation.benchmark import Benchmark
>>> mine = Benchmark("mine", env="math-v1", source="problems.jsonl", problems=100, prompt="{problem}")
>>> register_benchmark("mine", mine)

and then ``areal eval --benchmark mine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of one revision of a data set on the hub, in a form that areal.envs.rows reads."""

    repo: str
    revision: str
    path: str

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.revision}/{self.path}"

    def fetch(self) -> Path:
        """Return the file in the hub's cache, downloaded if need be; raises UserError if that fails."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        # The hub's errors are OSErrors; the other base of one is its HTTP client's, whichever that is.
        errors: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
        try:
            return Path(hf_hub_download(self.repo, self.path, revision=self.revision, repo_type="dataset"))
        except errors as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot load {self} ({text}); if the network is not to blame, the data set has moved: give "
                "a folder or file that has it with --data FOLDER"
            ) from error


@dataclass(frozen=True)
class Benchmark:
    """What ``areal eval --benchmark NAME`` does; every part of it can be set on the command line.

    Attributes:
        name: also of the file in a folder of data: ``NAME.jsonl``, ``NAME_test.parquet`` and the like, or a
            folder ``NAME``.
        env: the environment; it takes ``data``, ``test_data`` and ``prompt``.
        prompt: a template with ``{problem}``.
        max_new_tokens: longest response of one turn.
        temperature, top_p: of the sampling.
        keep: which rows of the file are the benchmark's; None: all.
    """

    name: str
    env: str
    source: HubFile | str
    problems: int
    prompt: str
    max_new_tokens: int = 2048
    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    env_options: Mapping[str, Any] = field(default_factory=dict)
    agent: str = "single-turn"
    keep: Callable[[Row], bool] | None = None

    def settings(self, data: Path) -> dict[str, Any]:
        """Return the settings of an evaluation (:class:`areal.config.Config`) on a file of problems."""
        return {
            "env": self.env,
            "env_options": {
                **self.env_options,
                "data": str(data),
                "test_data": str(data),
                "prompt": self.prompt,
            },
            "agent": self.agent,
            "evaluation": {
                "problems": self.problems,
                "samples": self.samples,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_new_tokens": self.max_new_tokens,
            },
        }
