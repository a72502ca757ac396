"""A task for browsergym-v1 on a page of its own: which button is pressed earns the reward.

pip install 'areal-gym[browsergym]'
areal train --env browsergym-v1 --agent multi-turn --model Qwen/Qwen2.5-1.5B-Instruct \
    env_options.task=examples/browser_task.py:Press env_options.browser=/usr/bin/chromium
"""

from __future__ import annotations

from typing import Any

from browsergym.core.task import AbstractBrowserTask


class Press(AbstractBrowserTask):
    """Press the button of a color; ``random`` is the task's own generator, seeded for each episode."""

    @classmethod
    def get_task_id(cls) -> str:
        """Return the task's name."""
        return "press"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.slow_mo = 0  # of Playwright: milliseconds before each of its operations
        self.colors = [str(name) for name in self.random.permutation(["red", "green", "blue"])]
        self.wanted = self.colors[self.random.randint(3)]

    def setup(self, page: Any) -> tuple[str, dict[str, Any]]:
        """Make the page; return the goal, and facts for ``info``."""
        buttons = "".join(
            f"<button onclick=\"document.body.dataset.pressed = '{name}'\">{name}</button>"
            for name in self.colors
        )
        page.set_content(f"<h1>Colors</h1>{buttons}")
        return f"Press the button '{self.wanted}'.", {}

    def validate(self, page: Any, chat_messages: list[Any]) -> tuple[float, bool, str, dict[str, Any]]:
        """Return the reward, whether it is over, what the user says, and facts for ``info``."""
        pressed = page.evaluate("document.body.dataset.pressed || ''")
        return float(pressed == self.wanted), bool(pressed), "", {}
