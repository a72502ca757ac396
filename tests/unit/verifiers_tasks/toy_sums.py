"""A taskset of verifiers': sums, of which the config says how many and how hard."""

from __future__ import annotations

import random
from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["SumsTaskset"]


class SumsData(vf.TaskData):
    answer: str


class SumsTask(vf.Task[SumsData]):
    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        if "raise" in trace.last_reply:
            raise ZeroDivisionError("no judge here")
        return float(f"\\boxed{{{self.data.answer}}}" in trace.last_reply)

    @vf.reward(weight=0.25)
    async def short(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) < 20)


class SumsConfig(vf.TasksetConfig):
    count: int = 40
    largest: int = 9


class SumsTaskset(vf.Taskset[SumsTask, SumsConfig]):
    def load(self) -> Iterator[SumsTask]:
        print("loading")  # what libraries say on standard output is no answer
        numbers = random.Random(0)
        for _ in range(self.config.count):
            a, b = (numbers.randint(0, self.config.largest) for _ in range(2))
            prompt = f"Compute {a} + {b}.\nPut the final answer in \\boxed{{}}."
            yield SumsTask(SumsData(prompt=prompt, answer=str(a + b)), self.config.task)
