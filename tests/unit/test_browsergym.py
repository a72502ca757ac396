"""browsergym-v1 in a real browser, in a process as a run gives it: Playwright keeps an event loop there."""

from __future__ import annotations

import re
import shutil
from functools import partial
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from areal.agents.interface import Step
from areal.errors import UserError
from areal.registry import make_env
from areal.rollout.environments import EnvironmentPool
from areal.workers import process

PRESS = f"{Path(__file__).parents[2] / 'examples' / 'browser_task.py'}:Press"
INSTALLED = "browsergym-core" in packages_distributions().get("browsergym", ())
CHROMIUM = shutil.which("chromium")
browsing = [
    pytest.mark.skipif(not INSTALLED, reason="browsergym-core is not installed"),
    pytest.mark.skipif(not CHROMIUM, reason="needs a browser (Debian: apt install chromium)"),
]


def pool_of(**options: Any) -> EnvironmentPool:
    quick = {"pre_observation_delay": 0.05, **options.pop("options", {})}
    make = partial(make_env, "browsergym-v1", **{"browser": CHROMIUM, "options": quick, **options})
    return EnvironmentPool(make, 1, 120.0, "browser", start=process.launch)


async def episode(pool: EnvironmentPool, seed: int, *actions: str) -> tuple[str, list[Step]]:
    """Return the first observation, and what came of each action; ``BUTTON`` is the right button's id."""
    async with pool.lend() as env:
        told, info = await pool.reset(env, {"seed": seed})
        assert info == {}
        steps = []
        for action in actions:
            wanted = re.search(r"Press the button '(\w+)'", told)
            found = wanted and re.search(rf"\[(\w+)\] button '{wanted[1]}'", told)
            steps.append(await pool.step(env, action.replace("BUTTON", found[1] if found else ""), {}))
        return told, steps


class TestInABrowser:
    pytestmark = browsing

    async def test_a_task_from_a_file(self):
        pool = pool_of(task=PRESS)
        told, steps = await episode(
            pool,
            1,
            "click('999')",
            "I do not know.",
            "noop(1)\nnoop(1)",
            "<think>first noop(1), then</think>I press it:\n```\nclick('BUTTON')\n```",
        )
        again, _ = await episode(pool, 1)
        other, (wrong,) = await episode(pool, 2, "goto('about:blank')")
        await pool.close()
        assert told.startswith("Press the button '")
        assert "click(bid: str" in told
        assert sorted(re.findall(r"\] button '(\w+)'", told)) == ["blue", "green", "red"]
        assert told == again != other
        missing, empty, several, right = steps
        assert missing.observation.startswith("Error of the last action: ValueError: Could not find element")
        assert "empty action" in empty.observation
        assert "only single-actions are allowed" in several.observation
        assert [step.reward for step in steps] == [0.0, 0.0, 0.0, 1.0]
        assert [step.done for step in steps] == [False, False, False, True]
        assert right.info == {"reward_parts": {"task": 1.0}}
        assert not right.observation.startswith("Error")
        assert (wrong.reward, wrong.done) == (0.0, False)

    async def test_the_task_without_an_end_on_a_local_page(self, tmp_path: Path):
        page = tmp_path / "page.html"
        page.write_text("<p>One</p>" + "<p>More of it</p>" * 200)
        given = {"start_url": page.as_uri(), "goal": "Read."}
        pool = pool_of(options={"task_kwargs": given, "slow_mo": 0}, longest=300)
        told, (tab, said) = await episode(pool, 0, "new_tab()", "report_infeasible('I cannot read so much.')")
        await pool.close()
        assert told.startswith("Read.\n\n")
        assert page.as_uri() in told
        assert re.search(r"… \([\d,]+ more characters\)$", told)
        assert "Tab 1 (in front)" in tab.observation
        assert (tab.done, said.done, said.reward) == (False, True, 0.0)

    async def test_what_cannot_be_opened(self):
        for options, wrong in (
            (
                {"task": "miniwob.click-test"},
                "requires another package; install it with pip install browsergym-miniwob",
            ),
            ({"task": "nothing"}, "BrowserGym has no task 'nothing'"),
            ({"task": PRESS, "actions": ["fly"]}, r"actions=\['fly'\]"),
        ):
            pool = pool_of(**options)
            with pytest.raises(UserError, match=wrong):
                await episode(pool, 0)
            await pool.close()
        pool = pool_of(task=PRESS, browser="/no/such/browser")
        with pytest.raises(UserError, match=r"the browser /no/such/browser does not exist"):
            await episode(pool, 0)
        await pool.close()


@pytest.mark.skipif(INSTALLED, reason="browsergym-core is installed")
def test_without_browsergym():
    with pytest.raises(
        UserError, match=r"requires BrowserGym; install it with pip install 'areal-gym.browsergym.'"
    ):
        make_env("browsergym-v1")
