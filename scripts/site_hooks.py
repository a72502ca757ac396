"""What mkdocs does besides: the reference pages, formulas without scripts, links that leave the site.

https://www.mkdocs.org/user-guide/configuration/#hooks
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from api import api_page
from reference import commands_page, configuration_page

ROOT = Path(__file__).parent.parent
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|attr|mod):<code>~?([^<]*)</code>")
_OUTWARD = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of the code."""
    made = {"configuration.md": configuration_page, "commands.md": commands_page, "api.md": api_page}
    for name, page in made.items():
        try:
            files.append(File.generated(config, name, content=page()))
        except ValueError as error:
            raise PluginError(f"{name}: {error}") from error
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name the files of the repository that a page links to: they are not on the site."""

    def named(link: re.Match[str]) -> str:
        text, path = link.groups()
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no {path}")
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return _OUTWARD.sub(named, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, which browsers draw themselves; and the roles of docstrings as plain code."""

    def drawn(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        return convert(html.unescape(formula[2]).strip(), display=display)

    return _FORMULA.sub(drawn, _ROLE.sub(r"<code>\1</code>", content))
