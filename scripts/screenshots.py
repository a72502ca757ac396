"""Take the pictures of docs/viewing.md and the README: python scripts/screenshots.py RUN|EVALUATION [...].

Chromium takes them. Runs and evaluations are in pictures of their own; of evaluations give two of the same
problems.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from selenium import webdriver

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
COLORS = 128
"""Of a picture, which keeps the files small."""


def shoot(
    driver: webdriver.Chrome, address: str, name: str, size: tuple[int, int], theme: str, act: str
) -> None:
    """Take one picture.

    Args:
        driver: the browser.
        address: of the page.
        name: of the picture.
        size: width and height of the window.
        theme: ``light`` or ``dark``.
        act: JavaScript that is run before.
    """
    metric = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metric)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    driver.get("about:blank")
    driver.get(address)
    time.sleep(2)
    driver.execute_script(act)
    time.sleep(1)
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(FIGURES / f"{name}.png", optimize=True)


def main(paths: list[str]) -> None:
    """Serve the runs, then the evaluations, and look at them."""
    runs = [path for path in paths if (Path(path) / "config.yaml").is_file()]
    for given, take in ((runs, take_runs), ([path for path in paths if path not in runs], take_evaluations)):
        if given:
            look(given, take)


def look(paths: list[str], take: Callable[[webdriver.Chrome, str, list[str]], None]) -> None:
    """Serve some paths, and take pictures of them."""
    command = [sys.executable, "-m", "areal", "view", *paths]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            found = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
            assert found is not None
            take(driver, f"{found[0]}#/", [Path(path).resolve().name for path in paths])
        finally:
            driver.quit()
            server.terminate()
            server.wait()


def take_evaluations(driver: webdriver.Chrome, base: str, names: list[str]) -> None:
    """Take the pictures of two evaluations."""
    shoot(driver, base, "view_evaluations", (1280, 380), "light", "")
    listed = f"{base}comparison?a={names[0]}&b={names[1]}"
    shoot(driver, listed, "view_comparison", (1280, 620), "light", "")


def take_runs(driver: webdriver.Chrome, base: str, names: list[str]) -> None:
    """Take all pictures of runs, those of rollouts of the first one."""
    run = names[0]
    hover = (
        "const over = document.querySelectorAll('.u-over')[0]; const box = over.getBoundingClientRect();"
        "over.dispatchEvent(new MouseEvent('mousemove', {clientX: box.left + box.width * 0.6,"
        " clientY: box.top + 60, bubbles: true}));"
    )
    shoot(driver, base, "view_overview", (1280, 1000), "light", hover)
    point = (
        "const box = document.querySelector('.lanes'); const place = box.getBoundingClientRect();"
        "box.dispatchEvent(new PointerEvent('pointermove', {clientX: place.left + place.width * 0.44,"
        " clientY: place.top + 10, bubbles: true}));"
    )
    shoot(driver, f"{base}timeline?run={run}&last=", "view_timeline", (1280, 1010), "light", point)
    for theme in ("light", "dark"):
        shoot(driver, f"{base}timeline?run={run}&last=", f"view_{theme}", (1280, 830), theme, point)
    worst = "document.getElementById('worst').click()"
    shoot(driver, f"{base}rollouts?run={run}", "view_rollouts", (1280, 620), "light", worst)
    opened = "document.querySelector('td.excerpt a').click()"
    listed = f"{base}rollouts?run={run}&sort=tokens&descending=1&changed=1"
    shoot(driver, listed, "view_conversation", (1280, 620), "light", opened)
    address = driver.current_url
    # What the learner computed is there of some rollouts; another one has links to them.
    entropy = (
        "document.querySelector('.tokenview .hint a')?.click();"
        "setTimeout(() => document.querySelector('[data-color=entropy]').click(), 500);"
    )
    shoot(driver, f"{address}&view=tokens", "view_tokens", (1280, 620), "dark", entropy)


if __name__ == "__main__":
    main(sys.argv[1:])
