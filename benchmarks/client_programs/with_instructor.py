"""Instructor, by its modes."""

from __future__ import annotations

from typing import Any

import anthropic
import instructor
import openai
from uses import KEY, ROOT, URL, WHO, Person, try_all


def extracted(mode: str) -> Any:
    asked: Any = [{"role": "user", "content": WHO}]
    if mode.startswith("ANTHROPIC"):
        of_anthropic: Any = instructor.from_anthropic(
            anthropic.Anthropic(base_url=ROOT, api_key=KEY), mode=getattr(instructor.Mode, mode)
        )
        found = of_anthropic.messages.create(
            model="claude-3", max_tokens=500, response_model=Person, messages=asked
        )
    else:
        of_openai: Any = instructor.from_openai(
            openai.OpenAI(base_url=URL, api_key=KEY), mode=getattr(instructor.Mode, mode)
        )
        found = of_openai.chat.completions.create(model="m", response_model=Person, messages=asked)
    return found.name, found.age


MODES = ("TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "ANTHROPIC_TOOLS", "ANTHROPIC_JSON")
try_all({mode: lambda mode=mode: extracted(mode) for mode in MODES}, dict.fromkeys(MODES, ("Ann", 3)))
