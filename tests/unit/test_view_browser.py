"""The page in a real browser, on runs as they are written: what it shows, and that no text becomes code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from viewed_runs import (
    PAYLOADS,
    SHOWN,
    START,
    add_cut_thought,
    add_events,
    add_formulas,
    add_game,
    add_hostile_step,
    add_step,
    end_of,
    make_evaluation,
    make_record,
    make_run,
    metrics,
    times,
)

from areal.telemetry.run_directory import CONFIG, RunDirectory
from areal.telemetry.status import identity, write_status

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser (Debian: apt install chromium chromium-driver)"
)
FORMULAS = {  # what is written: the text of each formula in it
    r"So \(\frac{1}{2}\) of $x^2$ is \[\sqrt{y}\] and $$z$$, or \boxed{\frac{3}{4}}.": [
        "12",
        "x2",
        "y",
        "z",
        "34",
    ],
    r"It costs $5 and $10, and a \$ is no end.": [],
    r"A brace that nobody closes: \boxed{1 and $no end": [],
    r"What TeX does not know: $\nosuchthing$ and \(\frac{1\).": [],
}
HOSTILE_FORMULAS = (
    r"$\href{javascript:window.hit=1}{here}$ $\url{javascript:window.hit=1}$ \(\includegraphics{x}\)",
    r"$\text{<img src=x onerror=window.hit=1>}$ \[\class{x}{\id{main}{y}}\] $\data{onclick=window.hit=1}{y}$",
    r"$\def\a{\a\a}\a$ \[\rule{99999em}{99999em}\] $\color{white}{\mathrm{hidden}}$",
)
STATUS = {  # of a run that goes on
    "seconds": 9.0,
    "ended": "",
    "version": 2,
    "steps": 12,
    "waits": [{"who": "the run", "what": "the learner's update", "seconds": 6.0}],
    "groups": {"admitted": 9, "in flight": 4, "finished": 5},
    "episodes": {"in flight": 16, "requests": 16, "environment calls": 0, "longest call": 0.0},
    "rates": {"tokens_per_s": 100.0, "updates_per_hour": 60.0},
    "restarts": 0,
    "report": "",
    "workers": [],
}
PATIENCE = 90
"""Seconds that anything may take on a machine that others use."""


class Page:
    """The browser, with one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.address = ""

    @contextmanager
    def at(self, paths: Sequence[Path], cache: Path) -> Iterator[None]:
        """Serve runs or evaluations at the current address; afterwards the page asks for nothing any more."""
        with served(paths, cache) as self.address:
            yield
            self.driver.get("about:blank")

    def open(self, path: str) -> None:
        """Go to a page of the current address, and wait until it is there."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}#/{path}")
        self.until(lambda: self.script("return !document.querySelector('main').hasAttribute('aria-busy')"))

    def go(self, path: str) -> None:
        """Go on to another page, as a link does."""
        self.script(
            "document.querySelector('main').dataset.old = ''; location.hash = arguments[0]", f"#/{path}"
        )
        self.until(lambda: self.all("main:not([aria-busy], [data-old])"))

    def until(self, condition: Callable[[], Any]) -> Any:
        wait = WebDriverWait(self.driver, PATIENCE, 0.1, [StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def script(self, body: str, *arguments: Any) -> Any:
        return self.driver.execute_script(body, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: next(iter(self.all(selector)), None))

    def text(self, selector: str = "main") -> str:
        """What is written, also where it is clipped."""
        return self.script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def button(self, name: str) -> WebElement:
        return self.until(lambda: next((b for b in self.all("button") if b.text.startswith(name)), None))

    @property
    def query(self) -> dict[str, str]:
        fragment = self.driver.current_url.partition("#/")[2]
        return {"page": fragment.partition("?")[0]} | {
            name: values[0] for name, values in parse_qs(fragment.partition("?")[2]).items()
        }

    def complaints(self) -> list[str]:
        """What the browser has refused, or failed at, since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1280,900"
    )
    for flag in (*flags.split(), f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    try:
        yield Page(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    folder = tmp_path_factory.mktemp("runs")
    found = {
        "first": make_run(folder, "first"),
        "second": make_run(folder, "second", steps=9, learner={"learning_rate": 1e-4}),
        "hostile": make_run(folder, "hostile", steps=2),
    }
    add_hostile_step(found["hostile"], 3)
    add_formulas(found["hostile"], 4, [*FORMULAS, *HOSTILE_FORMULAS])
    return found


@pytest.fixture(scope="module")
def address(runs: dict[str, RunDirectory], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served([run.path for run in runs.values()], tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("evaluated")
    return [
        make_evaluation(folder, "before", problems=60, samples=2, right=0.4),
        make_evaluation(folder, "after", problems=60, samples=2, right=0.7, temperature=0.0),
        make_evaluation(folder, "endpoint", problems=60, messages=True, long=0.001),
        make_evaluation(folder, "before", problems=len(PAYLOADS), benchmark="hostile", hostile=True),
        make_evaluation(
            folder, "after", problems=len(PAYLOADS), benchmark="hostile", hostile=True, messages=True
        ),
    ][:3]


@pytest.fixture
def evaluated(browser: Page, evaluations: list[Path], tmp_path: Path) -> Iterator[Page]:
    """The page of evaluations, without a run."""
    browser.complaints()
    with browser.at(evaluations, tmp_path):
        yield browser
        assert browser.complaints() == []
        assert browser.script("return window.hit") is None


@contextmanager
def served(paths: Sequence[Path], cache: Path) -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "areal", "view", *map(str, paths)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        text=True,
        stdout=subprocess.PIPE,
    )
    try:
        yield re.search(r"http://\S+", server.stdout.readline())[0]
    finally:
        server.terminate()
        server.communicate()


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    browser.address = address
    browser.complaints()
    yield browser
    assert browser.complaints() == []
    assert browser.script("return window.hit") is None


def test_curves_of_several_runs(page: Page, runs: dict[str, RunDirectory]):
    page.open("")
    names = [each.text for each in page.all(".runs tbody th")]
    assert names == ["first", "second", "hostile"]
    titles = [each.text for each in page.all("figcaption")]
    for title in (
        "Reward", "Held-out score (math-v1)", "Entropy", "Clip ratio", "Behavior ratio", "Staleness",
        "Generated tokens/s", "Share of the step: learner waits", "Overlap",
    ):  # fmt: skip
        assert title in titles
    assert len(page.all(".section:not(details) .chart canvas")) > 15
    reward = page.one(".chart")
    assert "last" in reward.text
    rows = {
        each.find_element(By.TAG_NAME, "th").text: each.text
        for each in page.all(".settings table:first-of-type tr")
    }
    assert "0.0001" in rows["learner.learning_rate"]
    boxes = page.all(".runs input")
    shown = len(reward.find_elements(By.CSS_SELECTOR, ".readout span"))
    boxes[1].click()
    page.until(lambda: len(reward.find_elements(By.CSS_SELECTOR, ".readout span")) == shown - 1)
    boxes[1].click()


def test_without_a_name_it_is_the_run_that_goes_on_or_else_the_newest(page: Page, tmp_path: Path):
    made = [make_run(tmp_path / "runs", name, steps=2).path for name in ("old", "new", "between")]
    for path, started in zip(made, (START, START + 20, START + 10), strict=True):
        os.utime(path / CONFIG, (started, started))
    with page.at(made, tmp_path / "cache"):
        for usual in ("new", "old"):
            for where in ("rollouts", "timeline"):
                page.open(where)
                assert page.text("h1").endswith(f" of {usual}")
            write_status(made[0], {**STATUS, **identity(), "time": time.time()})


def test_a_run_that_goes_on_says_what_it_waits_for(page: Page, tmp_path: Path):
    run = make_run(tmp_path / "runs", steps=2).path
    status = {**STATUS, **identity(), "time": time.time()}
    write_status(run, status)
    with page.at([run], tmp_path / "cache"):
        page.open("")
        lines = [each.text for each in page.all(".runs .now small")]
        assert lines == [
            "waiting: the run for the learner's update, 6 s",
            "groups: 9 admitted, 4 in flight, 5 complete and not yet trained on",
        ]
        page.script("document.querySelector('.runs input').focus()")
        write_status(run, {**status, "waits": [{"who": "the learner", "what": "a batch", "seconds": 2.0}]})
        page.until(lambda: "waiting: the learner for a batch, 2 s" in page.text(".runs .now"))
        assert page.script("return document.activeElement.type") == "checkbox", "the row is still the same"
        write_status(run, {**status, "ended": "finished"})
        page.until(lambda: "finished" in page.text(".runs") and not page.all(".runs .now small"))


def test_it_says_whether_runs_go_on_and_that_the_server_has_ended(page: Page, tmp_path: Path):
    run = make_run(tmp_path / "runs", steps=2).path
    with served([run], tmp_path / "cache") as page.address:
        page.open("")
        assert page.text("#status") == "connected"
        write_status(run, {**STATUS, **identity(), "time": time.time()})
        page.until(lambda: page.text("#status") == "live, 1 running")
        write_status(run, {**STATUS, **identity(), "time": time.time(), "ended": "finished"})
        page.until(lambda: page.text("#status") == "connected")
    page.until(lambda: "trying again" in page.text("#status"))
    page.until(lambda: "the server has stopped; start `areal view` again" in page.text("#status"))
    assert page.all(".chart canvas"), "what is shown stays"
    page.driver.get("about:blank")
    page.complaints()


def test_values_under_the_pointer_and_the_way_to_the_rollouts(page: Page):
    page.open("")
    plot = page.one(".chart .u-over")
    ActionChains(page.driver).move_to_element(plot).perform()
    page.until(lambda: "step" in page.all(".chart .readout")[0].text)
    step = re.search(r"step (\d+)", page.all(".chart .readout")[0].text)[1]
    others = [re.search(r"step (\d+)", each.text) for each in page.all(".chart .readout")]
    assert sum(found is not None and found[1] == step for found in others) > 9, "of all charts"
    ActionChains(page.driver).click(plot).perform()
    page.until(lambda: page.query["page"] == "rollouts")
    assert (page.query["from"], page.query["to"], page.query["sort"]) == (step, step, "reward")
    page.until(lambda: page.all(".rollouts tbody tr"))
    assert {row.find_element(By.TAG_NAME, "td").text for row in page.all(".rollouts tbody tr")} == {step}


def test_the_keyboard_does_it_too(page: Page):
    page.open("")
    plot = page.one(".plot")
    page.script("arguments[0].focus()", plot)
    ActionChains(page.driver).send_keys(Keys.HOME).perform()
    page.until(lambda: "step 1" in page.all(".chart .readout")[0].text)
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT, Keys.ENTER).perform()
    page.until(lambda: page.query["page"] == "rollouts")
    assert page.query["from"] == "2"


def test_zoom_and_smoothing(page: Page):
    page.open("")
    plot = page.one(".chart .u-over")
    ActionChains(page.driver).move_to_element_with_offset(plot, -80, 0).click_and_hold().move_by_offset(
        120, 0
    ).release().perform()
    whole = page.button("Whole run")
    low, high = re.fullmatch(r"rollouts of steps (\d) to (\d)", page.one(".range a").text).groups()
    timeline = page.all(".range a")[1].get_attribute("href")
    assert timeline.endswith(f"#/timeline?run=first&from={low}&to={high}")
    assert page.query["page"] == ""
    whole.click()
    page.until(lambda: not page.all(".range button"))
    slider = page.one("#smoothing")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.until(lambda: page.one("output").text == "mean of 5")
    slider.send_keys(Keys.HOME)


def test_light_and_dark(page: Page):
    page.open("")
    colors = set()
    for _ in range(2):
        page.one("#theme").click()
        colors.add(page.script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colors) == 2
    page.script("localStorage.clear()")
    for scheme in ("dark", "light"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        page.until(
            lambda scheme=scheme: page.script("return document.documentElement.dataset.theme") == scheme
        )


def test_it_follows_a_run(page: Page, runs: dict[str, RunDirectory]):
    run = runs["first"]
    page.open("")
    last = run.recorded_steps()[-1]
    page.until(lambda: f"{last} of 12" in page.text(".runs"))
    for step in range(last + 1, last + 3):
        add_step(run, step)
    page.until(lambda: f"{last + 2} of 12" in page.text(".runs"))
    page.open("rollouts?run=first")
    assert page.one(".rollouts tbody td").text == str(last + 2)
    add_step(run, last + 3)
    page.until(lambda: page.one(".rollouts tbody td").text == str(last + 3))
    for step in range(last + 4, last + 10):
        run.log_metrics({**metrics(step), "reward/mean": 0.0, "reward/std": 0.0, "advantage/zero": 1.0})
    page.open("")
    page.until(lambda: "nothing learned" in page.text(".alarms"))
    assert "so nothing was learned" in page.text(".alarms")


def point(page: Page, share: float, lane: int = 0) -> None:
    """Point at a lane, at some share of its width."""
    box = page.script("return document.querySelector('.lanes').getBoundingClientRect()")
    x = box["left"] + 100 + share * (box["width"] - 108)
    actions = ActionBuilder(page.driver)
    actions.pointer_action.move_to_location(x, box["top"] + 28 * lane + 11)
    actions.perform()


def pixel(page: Page, share: float, lane: int) -> str:
    """The color that is drawn there."""
    return page.script(
        "const c = document.querySelector('.lanes canvas'); const r = devicePixelRatio;"
        "const w = document.querySelector('.lanes').clientWidth;"
        "const at = [(100 + arguments[0] * (w - 108)) * r, (28 * arguments[1] + 11) * r].map(Math.round);"
        "return '#' + [...c.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3)"
        ".map((x) => x.toString(16).padStart(2, '0')).join('')",
        share,
        lane,
    )


RATES = 7.2
"""Where the bars of tokens/s are, in lanes, below three of them."""


def variable(page: Page, name: str) -> str:
    script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    return page.script(script, name)


def test_a_timeline_of_lanes(page: Page):
    page.open("timeline?run=second")
    page.until(lambda: "9 updates" in page.text(".readout"))
    # The run is 18.9 s long: it begins 0.5 s before the first step; the fifth one is from 8.5 to 10.5 s.
    assert pixel(page, 10 / 18.9, 0) == variable(page, "--run-0"), "the learner trains"
    assert pixel(page, 8.7 / 18.9, 0) == variable(page, "--line"), "it waits for its batch"
    assert pixel(page, 10 / 18.9, 1) == variable(page, "--run-2"), "an engine generates"
    assert pixel(page, 10.75 / 18.9, 1) == variable(page, "--run-1"), "it is paused"
    point(page, 10 / 18.9)
    page.until(lambda: "update 5" in page.text(".readout"))
    said = page.text(".readout")
    for words in (
        "learner: trains, 1.4 s", "engine 0: up; engines generate in 90% of this step", "engine 1: up",
        "staleness of 2 groups: 2 (η=4)", "model 600 ms, environment 150 ms, verifier 50 ms",
        "limited by the engines: the learner waits ", "engines are busy 90%",
    ):  # fmt: skip
        assert words in said
    ActionChains(page.driver).click().perform()
    page.until(lambda: page.query["page"] == "rollouts")
    assert (page.query["run"], page.query["from"], page.query["to"]) == ("second", "5", "5")
    page.until(lambda: len(page.all(".rollouts tbody tr")) == 8)


@pytest.mark.parametrize(
    ("taken", "generate", "env", "words"),
    [
        (
            0.1,
            0.5,
            0.1,
            "by the learner: .* waits 5% of the time, .* busy 50%$",
        ),
        (0.1, 0.95, 0.1, "by the learner: .* busy 95%$"),
        (1.0, 0.95, 0.1, "by the engines: the learner waits 50%"),
        (1.0, 0.3, 0.9, "by environments: .*more time in them"),
        (1.0, 0.3, 0.1, "by the longest rollouts, by pauses or by the start"),
        (1.0, None, 0.1, None),
    ],
)
def test_who_holds_a_run_up(page: Page, taken: float, generate: float | None, env: float, words: str | None):
    page.open("timeline?run=second")
    updates = {"start": [0, 2], "taken": [taken, 2 + taken], "end": [2, 4], "generate": [generate] * 2}
    updates |= {"model": [0.5] * 2, "env": [env] * 2, "verifier": [0.0] * 2, "env_queue": [0.0] * 2}
    said = page.driver.execute_async_script(
        "const [updates, done] = arguments;"
        "import('./assets/causes.js').then(({ holdUp }) => done(holdUp(updates, 0, 1)))",
        updates,
    )
    assert said is None if words is None else re.search(f"limited {words}", said)


def test_where_tokens_per_s_fell_and_why(page: Page, tmp_path: Path):
    run = make_run(tmp_path, "slow", steps=11)
    for step in range(12, 31):
        more = {"throughput/tokens_per_s": 700.0} if step in (15, 16, 24) else {}
        if step == 24:
            more |= {"latency/env": 0.9, "latency/episode": 1.7}
        run.log_metrics({**metrics(step), **times(step), **more})
        add_events(run, step)
        if step == 14:
            run.log_event("lost", part="engine 1", cause="SIGKILL", time=end_of(step) + 0.5)
            run.log_event("loaded", engine="engine 1", version=step, time=end_of(step) + 3.5, pause=0.1)
    with page.at([run.path], tmp_path / "cache"):
        page.open("timeline")
        rows = [row.text for row in page.until(lambda: page.all(".falls tbody tr"))]
        assert [re.match(r"15 to 16|24", row)[0] for row in rows] == ["15 to 16", "24"]
        assert "engine 1 was lost for 3 s" in rows[0]
        assert "in their environment" not in rows[0]
        assert re.search(
            "24 700 1,4.. rollouts took up to 850 ms in their environment, usually 150 ms$", rows[1]
        )
        fell, usual = pixel(page, 47 / 60.6, RATES), pixel(page, 51 / 60.6, RATES)
        assert (fell, usual) == (variable(page, "--run-7"), variable(page, "--run-2"))
        page.button("24").click()
        page.until(lambda: "update 24" in page.text(".readout") and page.text(".range"))
        assert "700 generated tokens/s, usually 1,4" in page.text(".readout")
        page.open("")
        chart = next(each for each in page.all(".chart") if "Generated tokens/s" in each.text)
        page.script("arguments[0].scrollIntoView({block: 'center'})", chart)
        page.script("arguments[0].focus()", chart.find_element(By.CSS_SELECTOR, ".plot"))
        ActionChains(page.driver).send_keys(Keys.END, Keys.ARROW_LEFT, Keys.ENTER).perform()
        page.until(lambda: page.query["page"] == "timeline" and "update 29" in page.text(".readout"))


def test_a_timeline_by_keys_and_by_dragging(page: Page):
    page.open("timeline?run=second")
    page.until(lambda: "9 updates" in page.text(".readout"))
    page.script("arguments[0].focus()", page.one(".lanes"))
    ActionChains(page.driver).send_keys(Keys.HOME).perform()
    page.until(lambda: "update 1" in page.text(".readout"))
    ActionChains(page.driver).send_keys(
        Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ENTER
    ).perform()
    page.until(lambda: page.query.get("from") == "2")
    page.open("timeline?run=second")
    page.until(lambda: "9 updates" in page.text(".readout"))
    point(page, 8.8 / 18.9)
    ActionChains(page.driver).click_and_hold().move_by_offset(300, 0).release().perform()
    page.until(lambda: "rollouts of steps 5 to 7" in page.text(".range"))
    assert page.query["page"] == "timeline"
    assert pixel(page, 0.5, 0) in {variable(page, name) for name in ("--run-0", "--run-2", "--line")}
    page.button("Whole range").click()
    page.until(lambda: not page.all(".range button"))
    page.one("[name=from]").send_keys("3")
    page.one("[name=to]").send_keys("4")
    page.until(lambda: "2 updates" in page.text(".readout"))
    point(page, 0.1)
    page.until(lambda: "update 3" in page.text(".readout"))
    assert (page.query["from"], page.query["to"]) == ("3", "4")


def test_a_timeline_follows_the_run_and_marks_its_restarts(page: Page, runs: dict[str, RunDirectory]):
    run = runs["first"]
    page.open("timeline?run=first")
    before = run.recorded_steps()[-1]
    page.until(lambda: f"{before} updates" in page.text(".readout"))
    add_step(run, before + 1)
    page.until(lambda: f"{before + 1} updates" in page.text(".readout"))
    assert not page.all(".marks table")
    at = end_of(before + 1)
    run.log_event("lost", part="engine 1", cause="SIGKILL", time=at + 0.5)
    page.until(lambda: "SIGKILL" in page.text(".marks"))
    run.log_event("loaded", engine="engine 1", version=before + 1, time=at + 5.0, pause=0.1)
    run.log_event("restarted", part="engine 1", seconds=4.4, time=at + 5.1)
    page.until(lambda: "after 4.4 s" in page.text(".marks"))
    whole = at + 5.1 - (START - 0.5)
    assert pixel(page, (whole - 3) / whole, 2) == variable(page, "--run-7"), "it was lost"
    point(page, (whole - 3) / whole, 2)
    page.until(lambda: "engine 1: lost until its replacement has loaded, 4.5 s" in page.text(".readout"))
    page.open("")
    page.until(lambda: "2 in first" in page.text("main > .hint"))
    page.one("main > .hint a").click()
    page.until(lambda: page.query == {"page": "timeline", "run": "first"})


def test_thousands_of_updates_are_a_color_for_each_pixel(page: Page, tmp_path: Path):
    run = make_run(tmp_path, "long", steps=1)
    for step in range(2, 3201):
        run.log_metrics({**metrics(step), **times(step)})
        add_events(run, step)
    with page.at([run.path], tmp_path / "cache"):
        page.open("timeline")
        page.until(lambda: "3,000 updates" in page.text(".readout"))
        assert "The first 200 updates of this range are not shown" in page.text(".notes")
        most = variable(page, "--run-0")
        assert {pixel(page, share / 10, 0) for share in range(1, 10)} == {most}, "it trains most of the time"
        point(page, 0.5)
        page.until(lambda: re.search(r"update 1[67]\d\d", page.text(".readout")))


def rewards(page: Page) -> list[float]:
    return [float(each.text) for each in page.all(".rollouts .reward")]


def test_the_worst_of_the_last_step_in_one_click(page: Page, runs: dict[str, RunDirectory]):
    page.open("rollouts?run=second")
    page.until(lambda: page.all(".rollouts tbody tr"))
    page.button("Worst of the last step").click()
    page.until(lambda: page.query.get("from") == "9" and len(rewards(page)) == 8)
    assert rewards(page) == sorted(rewards(page))
    page.button("All").click()
    page.until(lambda: len(rewards(page)) == 50)
    page.button("More").click()
    page.until(lambda: len(rewards(page)) == 72)
    page.script("scrollTo(0, 0)")
    page.button("Worst of the last step").click()
    page.until(lambda: len(rewards(page)) == 8)
    page.button("Weights changed within a rollout").click()  # of all steps, whatever was asked for before
    page.until(lambda: page.query.get("changed") == "1" and "64 rollouts" in page.text(".count"))
    assert "1" not in {row.find_element(By.TAG_NAME, "td").text for row in page.all(".rollouts tbody tr")}


def test_filters_order_and_search(page: Page):
    page.open("rollouts?run=second&from=2&to=5")
    page.until(lambda: len(rewards(page)) == 32)
    page.one("[name=least]").send_keys("0.5")
    page.until(lambda: set(rewards(page)) == {1.0})
    page.one("[name=least]").send_keys(*[Keys.BACKSPACE] * 3)
    page.until(lambda: len(rewards(page)) == 32)
    Select(page.one("[name=finish]")).select_by_visible_text("truncated")
    page.until(lambda: set(rewards(page)) == {0.0})
    Select(page.one("[name=finish]")).select_by_visible_text("any")
    page.button("reward").click()
    page.until(lambda: page.query["sort"] == "reward" and rewards(page) == sorted(rewards(page)))
    page.one("[name=text]").send_keys("compute 14 + 6.")
    page.until(lambda: "4 found in 32 of 32 rollouts" in page.text(".count"))
    assert page.query["text"] == "compute 14 + 6."
    address = page.driver.current_url.partition("#/")[2]
    page.open(address)  # which has it all
    page.until(lambda: len(rewards(page)) == 4)


def test_where_the_weights_changed(page: Page):
    page.open("rollout?run=second&step=5&group=10&number=1")
    said = page.one(".message.said")
    assert [each.text for each in said.find_elements(By.CLASS_NAME, "version")] == ["v2", "v4"]
    assert [each.text for each in page.all(".message.given h3")] == ["user"]
    assert "Compute 20 + 15." in page.text(".message.given")
    assert "weights" in page.text(".facts")
    page.button("Tokens").click()
    page.button("Next change of weights (1)").click()
    page.until(lambda: "version 4" in page.text(".values"))
    assert "log-probability" in page.text(".values")
    assert [each.text for each in page.all(".legend span")] == [
        "v2, 2 older than the learner",
        "v4",
        "not sampled",
    ]
    page.one(".tokens").send_keys(Keys.ARROW_LEFT)
    page.until(lambda: "version 2 (2 older than the learner)" in page.text(".values"))
    page.button("log-probability").click()
    assert page.all(".tokens .scale-0")
    assert page.query["color"] == "logprob"
    ActionChains(page.driver).move_to_element(page.all(".tokens .token")[0]).perform()
    page.until(lambda: "token 1 of" in page.text(".values") and "not sampled" in page.text(".values"))
    page.one(".controls a").click()
    page.until(lambda: page.query["number"] == "2")


def test_what_an_update_computed_of_tokens(page: Page):
    page.open("rollout?run=second&step=5&group=10&number=1&view=tokens&color=advantage")
    page.until(lambda: page.all(".tokens .tone-0") and page.all(".tokens .tone-5"))
    assert [each.text for each in page.all(".controls [data-color]")] == [
        "version", "log-probability", "advantage", "π_prox/π_behav", "π_θ/π_prox", "entropy"
    ]  # fmt: skip
    page.button("π_θ/π_prox").click()
    assert page.query["color"] == "theta/prox"
    shown = page.all(".tokens .token:not(.given)")
    assert {each.get_attribute("class") for each in shown} == {"token tone-3"}
    page.button("entropy").click()
    assert page.all(".tokens .scale-0")
    assert page.all(".tokens .scale-5")
    page.all(".tokens .token:not(.given)")[0].click()
    said = "advantage -3 · π_prox/π_behav 0.3679 · π_θ/π_prox 1 · entropy 0"
    page.until(lambda: said in page.text(".values"))
    page.open("rollout?run=second&step=5&group=10&number=2&view=tokens&color=advantage")
    page.until(lambda: "are recorded for 2 rollouts of update" in page.text(".hint"))
    assert not page.all("[data-color=advantage]")
    assert page.all(".legend"), "by version"
    page.one(".hint a").click()
    page.until(lambda: page.query["number"] == "1" and page.all(".tokens .tone-0"))


def test_a_group_side_by_side(page: Page):
    page.open("group?run=second&step=2&group=4")
    assert len(page.all("article")) == 4
    found = [float(each.text) for each in page.all("article .facts > div:first-child dd")]
    assert found == sorted(found)
    assert page.text("main").count("Compute 14 + 6.") == 1, "the prompt once for all"
    page.one("article h2 a").click()
    page.until(lambda: page.query["page"] == "rollout")


def test_who_said_what_in_a_game(browser: Page, tmp_path: Path):
    page, run = browser, make_run(tmp_path, "game", steps=1)
    names = (PAYLOADS[0], "second")
    add_game(run, 2, names)
    page.complaints()
    with page.at([run.path], tmp_path / "cache"):
        page.open("rollout?run=game&step=2&group=50&number=1")
        assert f"{names[0]} 1, second -1" in page.text(".facts")
        assert [each.text for each in page.all("main h2")] == [f"{names[0]}: reward 1", "second: reward -1"]
        titles = [each.text for each in page.all(".message.said h3")]
        moves = [f"{names[0]}, move 1", f"{names[0]}, move 3, reward 1", "second, move 2, reward -1"]
        assert titles == moves
        page.button("Tokens").click()
        page.until(lambda: "log-probability" in page.text())
        page.open("group?run=game&step=2&group=50")
        shared = "The prompt of the first conversation stands once, above; that of the other one in each."
        assert page.text("main").count("The card of <script>") == 1, shared
        assert page.text("main").count("The card of second.") == 2, shared
        assert page.text("article").count("second: reward") == 1
    assert page.complaints() == []
    assert page.script("return window.hit") is None


def test_what_ended_a_thought_is_within_its_response(browser: Page, tmp_path: Path):
    page, run = browser, make_run(tmp_path, "thinks", steps=1)
    add_cut_thought(run, 2, "\n</think>\n")
    with page.at([run.path], tmp_path / "cache"):
        page.open("")
        page.until(lambda: "Thoughts ended by the budget" in page.text("main"))
        page.open("rollout?run=thinks&step=2&group=60&number=1")
        titles = [each.text for each in page.all(".message.said h3")]
        assert titles == ["response 1, reward 0.25", "response 2, reward 0.75"]
        assert [each.text for each in page.all(".message.said .given")] == ["</think>"]
        assert re.search(r"I wonder\s*</think>\s*(v1)?Five", page.text(".message.said"))
    assert page.complaints() == []


def see_all(page: Page, each: int) -> None:
    """Look at what a hostile run has, of each so many payloads, and see that it is text and nothing else."""
    page.open("")
    page.script("document.querySelector('details.section').open = true")
    page.until(lambda: all(payload in page.text() for payload in PAYLOADS))  # names of metrics
    page.until(lambda: page.all("details .chart canvas"))
    page.open("rollouts?run=hostile&from=3&to=3")
    page.until(lambda: len(page.all(".rollouts tbody tr")) == len(PAYLOADS))
    text = page.text(".rollouts")
    assert all(payload in text for payload in PAYLOADS), "names of environments"
    assert SHOWN in text
    page.go("timeline?run=hostile")
    page.until(lambda: page.all(".marks table"))
    text = page.text(".marks")
    assert all(text.count(payload) >= 2 for payload in PAYLOADS), "names of engines, and causes"
    assert SHOWN in text
    # All engines have loaded by then, and none is lost yet: each one is named.
    point(page, 6.55 / 6.6, 5)
    page.until(lambda: all(payload in page.text(".readout") for payload in PAYLOADS))
    assert not page.all("main :is(script, img, iframe, svg, style, math, object, embed)")
    page.go("rollouts?run=hostile&from=3&to=3")
    page.until(lambda: len(page.all(".rollouts tbody tr")) == len(PAYLOADS))
    Select(page.one("[name=env]")).select_by_visible_text(PAYLOADS[0])
    page.until(lambda: len(page.all(".rollouts tbody tr")) == 1)
    for number, payload in list(enumerate(PAYLOADS))[::each]:
        page.go(f"rollout?run=hostile&step=3&group={1000 + number}&number=1&view=conversation")
        text = page.text()
        assert text.count(payload) >= 5, "prompt, response, tool call, observation, environment"
        assert text.count(SHOWN) == 2
        assert ("failed: " in text) == bool(number % 2)
        page.button("Tokens").click()
        page.until(lambda payload=payload: payload in page.text(".tokens"))
    page.go(f"group?run=hostile&step=3&group={1000 + number}")
    assert payload in page.text("article")
    assert not page.all("main :is(script, img, iframe, svg, style, math, object, embed)")
    assert not page.all(
        "main [onerror], main [onload], main [onfocus], main [ontoggle], main a:not([href^='#/'])"
    )


def test_what_others_wrote_is_text(page: Page):
    see_all(page, each=1)


def test_formulas_are_typeset_and_nothing_else_comes_of_them(page: Page):
    for number, text in enumerate((*FORMULAS, *HOSTILE_FORMULAS)):
        page.open(f"rollout?run=hostile&step=4&group={500 + number}&number=1")
        page.one(".message.said")
        found = [each.get_attribute("textContent") for each in page.all(".said .formula math")]
        assert found == FORMULAS.get(text, found)
        assert not page.all("main .text :is(a, img, [onclick], [style*=color], #main)")
        assert page.script("return document.documentElement.scrollWidth") <= 1280
        page.one(".controls input[type=checkbox]").click()
        assert not page.all(".formula")
        assert text in page.text(".said .text"), "as it is written"


def test_two_evaluations_from_their_scores_to_a_response(evaluated: Page):
    page = evaluated
    page.open("")
    assert page.text("h1") == "3 evaluations"
    scores = [float(each.text) for each in page.all(".scores:first-of-type .score") if each.text[0] in "01"]
    assert len(scores) == 5
    row = page.until(lambda: next(r for r in page.all(".scores tr") if "B is better" in r.text))
    assert "after" in row.text
    row.find_elements(By.CSS_SELECTOR, "a")[2].click()  # the problems on which A is better
    page.until(lambda: page.query["page"] == "comparison" and page.all(".problems tbody tr"))
    assert page.query["which"] == "worse"
    assert "B is better" in page.text(".headline")
    differences = [each.text for each in page.all(".problems .reward")]
    assert set(differences) <= {"−0.500", "−1.000"}
    page.until(lambda: "Compute" in page.text(".problems tbody .excerpt"))
    page.button("B is better").click()
    page.until(lambda: page.query["which"] == "better")
    page.until(lambda: all(each.text[0] == "+" for each in page.all(".problems .reward")))
    page.button("All").click()
    page.until(lambda: len(page.all(".problems tbody tr")) == 50)
    page.button("More").click()
    page.until(lambda: len(page.all(".problems tbody tr")) == 60)
    page.until(lambda: "Compute 59" in page.text(".problems") and "the responses of both" not in page.text())
    assert "sampling.temperature" in page.text(".settings")
    page.script("scrollTo(0, 0)")
    page.one(".problems .excerpt a").click()
    page.until(lambda: page.query["page"] == "group" and len(page.all("article")) == 4)
    assert page.text("main").count("Compute ") == 1, "the prompt once for all"
    page.one("article h2 a").click()
    page.until(lambda: page.query["page"] == "rollout" and page.text("h1") == "Response 1 of 2")
    page.button("Tokens").click()
    page.one(".tokens").send_keys(Keys.END, Keys.ARROW_LEFT)
    page.until(lambda: "log-probability" in page.text(".controls + div") or page.all(".tokens .scale-0"))
    assert not page.all(".version")
    page.one(".crumbs a").click()
    page.until(lambda: page.query["page"] == "rollouts" and page.query["run"] == "before")


def test_responses_of_an_evaluation_by_parts_of_the_reward(evaluated: Page):
    page = evaluated
    page.open("rollouts?run=endpoint")
    page.until(lambda: len(rewards(page)) == 50)
    page.button("length").click()
    page.until(lambda: page.query.get("part") == "length" and page.all(".rollouts tbody .part:not(.extra)"))
    assert page.query["sort"] == "part"
    lengths = [float(each.text) for each in page.all(".rollouts tbody .part:not(.extra)")]
    assert lengths == sorted(lengths)
    page.one("[name=part_least]").send_keys("-0.018")
    page.until(lambda: 0 < len(rewards(page)) < 50)
    Select(page.one("[name=part]")).select_by_visible_text("correct")
    page.one("[name=part_least]").send_keys("1")
    page.until(lambda: len(rewards(page)) and min(rewards(page)) > 0.5)
    page.one("td.excerpt a").click()
    page.until(lambda: page.query["page"] == "rollout" and page.all(".message.said"))
    assert [each.text for each in page.all(".message h3")] == ["user", "response"]
    assert not [each for each in page.all(".tabs button") if each.is_displayed()], "tokens are not known"


def test_a_run_and_evaluations_together(
    page: Page, runs: dict[str, RunDirectory], evaluations: list[Path], tmp_path: Path
):
    with page.at([runs["second"].path, *evaluations], tmp_path):
        page.open("")
        assert page.text("h1") == "1 run, 3 evaluations"
        assert page.all(".scores .score")
        assert page.all(".chart canvas")
        page.open("rollouts?run=second")
        Select(page.one("[name=run]")).select_by_visible_text("after")
        page.until(lambda: page.query.get("run") == "after" and page.text("h1") == "Responses of after")


def see_all_of_evaluations(page: Page) -> None:
    """Look at what hostile evaluations have, of each payload, and see that it is text and nothing else."""
    for name in ("before", "after"):
        page.open(f"rollouts?run={name}&from=1&to=1")
        page.until(lambda: len(page.all(".rollouts tbody tr")) == 2 * len(PAYLOADS))
        assert all(payload in page.text(".rollouts") for payload in PAYLOADS)
        for number, payload in enumerate(PAYLOADS):
            page.go(f"rollout?run={name}&step=1&group={number}&number=2")
            page.until(lambda payload=payload: payload in page.text(".message.said"))
            for place in (".facts", ".failure", ".message.given .text"):
                assert payload in page.text(place), place
            assert SHOWN in page.text(".message.said")
    page.open("comparison?benchmark=hostile&a=before&b=after&which=all")
    page.until(lambda: all(payload in page.text(".problems") for payload in PAYLOADS))
    page.one(".problems .excerpt a").click()
    page.until(lambda: page.query["page"] == "group" and len(page.all("article")) == 4)
    assert not page.all("main :is(script, style, img, iframe, svg, details[ontoggle])")


def test_what_others_wrote_in_an_evaluation_is_text(evaluated: Page):
    see_all_of_evaluations(evaluated)


def test_a_report_of_evaluations_opens_from_the_disk(browser: Page, evaluations: list[Path], tmp_path: Path):
    path = tmp_path / "report.html"
    subprocess.run(
        [sys.executable, "-m", "areal", "view", *map(str, evaluations), "--export", path],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    page = browser
    page.complaints()
    page.address = path.as_uri()
    page.open("")
    page.until(lambda: "B is better" in page.text(".evaluations"))
    see_all_of_evaluations(page)
    page.open("rollouts?run=endpoint&sort=part&part=length")
    page.until(lambda: len(rewards(page)) == 50)
    lengths = [float(each.text) for each in page.all(".rollouts tbody .part:not(.extra)")]
    assert lengths == sorted(lengths)
    assert page.complaints() == []
    assert page.script("return window.hit") is None


def test_a_report_opens_from_the_disk(page: Page, runs: dict[str, RunDirectory], tmp_path: Path):
    path = tmp_path / "report.html"
    subprocess.run(
        [sys.executable, "-m", "areal", "view", *(str(run.path) for run in runs.values()), "--export", path],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
    )
    page.address = path.as_uri()
    page.open("")
    assert len(page.all(".runs tbody tr")) == 3
    assert "report of" in page.text("#status")
    assert "the rollouts of steps 1 to 9 of second" in page.text()
    page.open("timeline?run=second")
    point(page, 10 / 18.9)
    page.until(lambda: "update 5" in page.text(".readout"))
    assert "learner: trains, 1.4 s" in page.text(".readout")
    page.open("rollouts?run=second")
    page.until(lambda: len(rewards(page)) == 50)
    page.button("Worst of the last step").click()
    page.until(lambda: len(rewards(page)) == 8)
    page.one("td.excerpt a").click()
    page.until(lambda: page.query["page"] == "rollout" and page.all(".message.said .version"))
    see_all(page, each=4)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page: Page, width: int):
    metric = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metric)
    page.open("rollouts?run=first")
    for path in (
        "", "timeline?run=second", "timeline?run=hostile", "rollouts?run=hostile",
        "rollouts?run=second", "rollout?run=second&step=5&group=10&number=1",
        "rollout?run=hostile&step=3&group=1007&number=1&view=tokens", "group?run=second&step=5&group=10",
    ):  # fmt: skip
        page.go(path)
        assert page.script("return document.documentElement.scrollWidth") <= width, path
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_of_evaluations_is_wider_than_the_window(evaluated: Page, width: int):
    page = evaluated
    metric = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metric)
    page.open("rollouts?run=after")
    for path in (
        "", "comparison?benchmark=sums&a=before&b=after", "comparison?benchmark=hostile",
        "rollouts?run=before", "rollouts?run=endpoint&part=length&sort=part",
        "rollout?run=before&step=1&group=5&number=1&view=tokens",
        "group?run=before&step=2&group=5&against=endpoint&against_step=1&against_group=5",
    ):  # fmt: skip
        page.go(path)
        assert page.script("return document.documentElement.scrollWidth") <= width, path
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_sessions_of_a_model_that_was_served(browser: Page, tmp_path: Path):
    page, record = browser, make_record(tmp_path / "sessions.jsonl")
    hostile = make_record(tmp_path / "hostile.jsonl", hostile=True)
    page.complaints()
    with page.at([record, hostile], tmp_path / "cache"):
        page.open("")
        assert (page.text("h1"), page.text("[data-page=rollouts]")) == ("2 records", "Sessions")
        page.one(".records a").click()
        page.until(lambda: page.query["page"] == "rollouts" and len(page.all(".rollouts tbody tr")) == 4)
        assert "4 sessions" in page.text(".count")
        columns = [each.text for each in page.all(".rollouts th")]
        assert columns == ["session ↓", "reward", "tokens", "finish", "response"]
        page.one("td.excerpt a").click()
        page.until(lambda: page.query["page"] == "rollout" and page.text("h1") == "Session 3")
        assert "task-3" in page.text(".facts")
        assert "Conversation 2 of 2" in page.text()
        assert not page.all(".version"), "there are no weights to tell apart"
        page.button("Tokens").click()
        page.until(lambda: page.query.get("view") == "tokens" and "log-probability" in page.text())
        for width in (390, 1280):
            metric = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metric)
            for path in (
                "",
                "rollouts?run=sessions.jsonl",
                "rollout?run=hostile.jsonl&step=1&group=1&number=1",
            ):
                page.open(path)
                assert page.script("return document.documentElement.scrollWidth") <= width, path
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.open("rollouts?run=hostile.jsonl")
        page.until(lambda: all(payload in page.text(".rollouts") for payload in PAYLOADS))
        for number, payload in enumerate(PAYLOADS):
            page.go(f"rollout?run=hostile.jsonl&step=1&group={number}&number=1")
            page.until(lambda payload=payload: payload in page.text(".message.said"))
            assert payload in page.text(".facts")
            assert SHOWN in page.text(".message.said")
    assert page.complaints() == []
    assert page.script("return window.hit") is None


def test_what_is_not_there_is_said(page: Page):
    page.open("rollout?run=first&step=1&group=999&number=1")
    assert "has no rollout 1 of group 999" in page.text(".failure")
    assert any("404" in line for line in page.complaints())
    page.open("constructor")
    assert "the page constructor does not exist" in page.text(".failure")
