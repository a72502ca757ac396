"""The site builds without a warning, and its references have every setting, command and public function."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import ROOT
from pydantic import BaseModel, Field
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import areal
from areal.config import Config

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts/reference.py")
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: warnings that are not logged are not counted by --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_pages(site: Path):
    page = (site / "configuration.html").read_text()
    assert not [name for name in settings(Config) if f"<code>{name}</code>" not in page]
    commands = (site / "commands.html").read_text()
    for name in ("train", "eval", "eval rescore", "replay", "env init", "sandbox check"):
        assert f">areal {name}<" in commands
    api = (site / "api.html").read_text()
    assert not [name for name in areal.__all__ if f'id="areal.{name}"' not in api and name != "__version__"]
    assert ":func:" not in api
    assert "<math" in (site / "objectives.html").read_text()
    for page in site.glob("*.html"):
        text = page.read_text()
        assert "arithmatex" not in text, f"{page.name}: a formula that was not drawn"
        loaded = re.findall(r'(?:src|<link[^>]* href)="(https?://[^"]+)"', text)
        assert not loaded, f"{page.name} loads {loaded} from elsewhere"


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser (Debian: chromium chromium-driver)")
def test_the_search_works_without_a_server(site: Path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as browser:
        browser.get((site / "index.html").as_uri())
        browser.find_element(By.CSS_SELECTOR, "label[for=__search]").click()
        box = browser.find_element(By.CLASS_NAME, "md-search__input")
        WebDriverWait(browser, 60).until(lambda _: box.is_displayed())
        box.send_keys("staleness")
        WebDriverWait(browser, 60).until(
            lambda _: browser.find_elements(
                By.CSS_SELECTOR, "a.md-search-result__link[href*='staleness.html']"
            )
        )


def test_links_of_the_readme_lead_somewhere(site: Path):
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", text)
    links += [(path, "") for path in re.findall(r' src(?:set)?="([^"]+)"', text)]
    assert len([path for path, _ in links if "/figures/" in path]) >= 4
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        if anchor:
            assert f'id="{anchor}"' in (site / Path(path).with_suffix(".html").name).read_text(), anchor


def test_links_of_the_pages_lead_somewhere_without_the_site():
    """As where the repository is read on a forge, which does not have the pages that are made of the code."""
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]+)?\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_a_setting_without_description():
    class Holes(BaseModel):
        """Settings."""

        known: int = Field(1, description="It is.")
        unknown: int = 2

    with pytest.raises(ValueError, match="unknown has no description"):
        reference.configuration_page(Holes)


def test_an_option_without_description():
    parser = argparse.ArgumentParser(prog="areal", description="It is.")
    parser.add_argument("--known", help="it is")
    reference.commands_page(parser)
    parser.add_argument("--unknown")
    with pytest.raises(ValueError, match="--unknown has no description"):
        reference.commands_page(parser)
