"""A taskset of verifiers' without an end, whose tasks have a tool."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["ToolsTaskset"]


class Weather(vf.Toolset[vf.ToolsetConfig]):
    TOOL_PREFIX = "toy"

    @vf.tool
    def weather(self, city: str) -> str:
        """Return the weather of a city."""
        return f"snow in {city}"


class ToolsTask(vf.Task[vf.TaskData]):
    @classmethod
    def toolsets(cls, config: vf.TaskConfig) -> list[vf.Toolset]:
        return [Weather(vf.ToolsetConfig())]

    @vf.reward(weight=1.0)
    async def called(self, trace: vf.Trace) -> float:
        return float(any("snow in Zürich" in str(message.content) for message in trace.tool_messages))


class ToolsTaskset(vf.Taskset[ToolsTask, vf.TasksetConfig]):
    INFINITE = True

    def load(self) -> Iterator[ToolsTask]:
        for number in itertools.count():
            yield ToolsTask(vf.TaskData(prompt=f"Task {number}: how is the weather?"), self.config.task)


if __name__ == "__main__":
    Weather.run()
