"""``browsergym-v1``: tasks of BrowserGym in a real browser, its pages as text."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs.code_blocks import code_block
from areal.envs.text import UnicodeText
from areal.errors import UserError, install_hint
from areal.registry import load_object
from areal.thoughts import after_thought

_WHO = "browsergym-v1"


class BrowserGymEnv(gymnasium.Env[str, str]):
    """Acts in a browser by BrowserGym's actions, such as ``click('12')``; the reward is the task's.

    An observation is the page as its accessibility tree, with the ids that actions name, its address, other
    tabs, what the user has said since the last one, and the error of the last action; the first one begins
    with the goal and the actions. Of a response the last code block is the action, or else all that is said.
    Each environment has a browser, in a process of its own. The agent is ``multi-turn``.

    Args:
        task: BrowserGym's id without ``browsergym/``, such as ``miniwob.click-test``, whose package
            (``browsergym-miniwob``) is installed; or ``path/to/file.py:Task`` or ``module:Task``, a subclass
            of its ``AbstractBrowserTask``.
        options: arguments of its environment: ``task_kwargs``, ``slow_mo``, ``timeout``, ``viewport`` …
        actions: its sets of actions.
        longest: characters of a page that are shown.
        browser: the program, such as ``/usr/bin/chromium``; None: the one that ``playwright install`` got.

    Raises:
        UserError: BrowserGym, the task's package or the browser is not installed, or there is no such task.
    """

    metadata = {"render_modes": [], "isolation": "process"}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        task: str = "openended",
        options: dict[str, Any] | None = None,
        actions: Sequence[str] = ("chat", "infeas", "bid", "nav", "tab"),
        longest: int = 20_000,
        browser: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        try:
            from browsergym.core.action.highlevel import HighLevelActionSet
            from browsergym.core.env import BrowserEnv
        except ModuleNotFoundError as error:
            raise UserError(f"{_WHO} needs BrowserGym: {install_hint('browsergym')}") from error
        self.observation_space = UnicodeText(2**20)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        sets: Any = list(actions)
        try:
            self._actions = HighLevelActionSet(subsets=sets, multiaction=False)
        except ValueError as error:
            raise UserError(f"{_WHO}: actions={sets}: {error}") from error
        make = partial(BrowserEnv, load_object(task)) if ":" in task else _registered(task)
        self._env = make(**{**(options or {}), "action_mapping": self._actions.to_python_code})
        self._longest = longest
        self._browser = browser
        self._heard = 0
        self._over: bool | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin the task in a new browser."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31))
        _use(self._browser)
        found, _ = self._env.reset(seed=drawn)
        self._over = False
        goal = "\n".join(part.get("text", f"[{part['type']}]") for part in found["goal_object"])
        self._heard = len(found["chat_messages"])
        asked = self._actions.describe(with_long_description=False, with_examples=False).strip()
        return f"{goal}\n\n{asked}\n\n{self._page(found)}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act in the page; an action that cannot be made, or read, is an error in the next observation."""
        if self._over is not False:
            raise ResetNeeded("call reset before step")
        said = after_thought(action)
        found, earned, ended, cut, _ = self._env.step(code_block(said) or said)
        reward = float(earned)
        self._over = bool(ended or cut)
        told = [message for message in found["chat_messages"][self._heard :] if message["role"] == "user"]
        self._heard = len(found["chat_messages"])
        lines = [f"The user says: {message['message']}" for message in told]
        if found["last_action_error"]:
            lines.append(f"Error of the last action: {found['last_action_error']}")
        text = "\n".join([*lines, self._page(found)])
        return text, reward, bool(ended), bool(cut), {"reward_parts": {"task": reward}}

    def close(self) -> None:
        """Close the browser."""
        self._env.close()

    def _page(self, found: dict[str, Any]) -> str:
        """Return the page that is in front, and the names of the tabs if there are several."""
        from browsergym.utils.obs import flatten_axtree_to_str

        lines = []
        tabs = list(zip(found["open_pages_titles"], found["open_pages_urls"], strict=True))
        if len(tabs) > 1:
            front = int(found["active_page_index"][0])
            lines += [
                f"Tab {number}{' (in front)' if number == front else ''}: {title} {url}"
                for number, (title, url) in enumerate(tabs)
            ]
        tree = flatten_axtree_to_str(found["axtree_object"]).strip()
        if len(tree) > self._longest:
            tree = f"{tree[: self._longest]}\n… ({len(tree) - self._longest:,} more characters)"
        return "\n".join([*lines, tree])


def _use(program: str | None) -> None:
    """Have Playwright start a program in this process, also where BrowserGym names none (for its chat).

    Raises:
        UserError: it is not there.
    """
    from browsergym.core import _get_global_playwright

    chromium: Any = _get_global_playwright().chromium
    if not Path(program or chromium.executable_path).is_file():
        missing = f"there is no browser at {program}" if program else "Playwright has no browser"
        told = "run `playwright install chromium`, or name one (env_options.browser=/usr/bin/chromium)"
        raise UserError(f"{_WHO}: {missing}: {told}")
    if program and not isinstance(chromium.launch, partial):
        chromium.launch = partial(chromium.launch, executable_path=program)


def _registered(task: str) -> Any:
    """Return what makes the environment of a task that a package of BrowserGym has registered."""
    package, dot, _ = task.partition(".")
    try:
        importlib.import_module(f"browsergym.{package}" if dot else "browsergym.core")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{_WHO}: the task '{task}' needs another package: pip install browsergym-{package}"
        ) from error
    spec: Any = gymnasium.registry.get(f"browsergym/{task}")
    if spec is None:
        raise UserError(f"{_WHO}: BrowserGym has no task '{task}'")
    return partial(spec.entry_point, **spec.kwargs)
