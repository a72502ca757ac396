"""``browsergym-v1``: BrowserGym's tasks in a real browser, with the pages as text."""

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
    """Acts in a browser with BrowserGym's actions, such as ``click('12')``. The task gives the reward.

    An observation is the accessibility tree of the page, with the ids that actions use, its address, other
    tabs, new messages of the user, and the error of the last action. The first observation begins with the
    goal and the actions. The action is the last code block of a response, or else the whole response without
    thoughts. Each environment has its own browser, in its own process. Use the agent ``multi-turn``.

    Args:
        task: BrowserGym's id without ``browsergym/``, such as ``miniwob.click-test``, which needs the package
            ``browsergym-miniwob``; or ``path/to/file.py:Task`` or ``module:Task``, a subclass of
            ``AbstractBrowserTask``.
        options: arguments of BrowserGym's environment: ``task_kwargs``, ``slow_mo``, ``timeout``,
            ``viewport`` …
        actions: names of BrowserGym's action sets.
        longest: maximum number of characters of a page in an observation.
        browser: the browser program, such as ``/usr/bin/chromium``; None: the one that ``playwright install``
            installed.

    Raises:
        UserError: BrowserGym, the task's package or the browser is not installed, or the task does not exist.
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
            raise UserError(
                f"{_WHO} requires BrowserGym; install it with {install_hint('browsergym')}"
            ) from error
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
        """Act in the page; the next observation has the error of an action that is invalid or unreadable."""
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
        """Return the active page, and the titles of the tabs if there are several."""
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
    """Have Playwright start a program in this process, even where BrowserGym does not name one (for its
    chat).

    Raises:
        UserError: the program does not exist.
    """
    from browsergym.core import _get_global_playwright

    chromium: Any = _get_global_playwright().chromium
    if not Path(program or chromium.executable_path).is_file():
        missing = f"the browser {program} does not exist" if program else "Playwright has no browser"
        told = "run `playwright install chromium`, or set env_options.browser=/usr/bin/chromium"
        raise UserError(f"{_WHO}: {missing}: {told}")
    if program and not isinstance(chromium.launch, partial):
        chromium.launch = partial(chromium.launch, executable_path=program)


def _registered(task: str) -> Any:
    """Return a function that creates the environment of a task that a BrowserGym package has registered."""
    package, dot, _ = task.partition(".")
    try:
        importlib.import_module(f"browsergym.{package}" if dot else "browsergym.core")
    except ModuleNotFoundError as error:
        raise UserError(
            f"{_WHO}: the task '{task}' requires another package; install it with pip install "
            f"browsergym-{package}"
        ) from error
    spec: Any = gymnasium.registry.get(f"browsergym/{task}")
    if spec is None:
        raise UserError(f"{_WHO}: BrowserGym has no task '{task}'")
    return partial(spec.entry_point, **spec.kwargs)
