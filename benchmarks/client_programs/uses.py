"""What the programs share: each use is tried, and a line of JSON says whether it worked."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

warnings.filterwarnings("ignore")
URL, KEY = os.environ["BASE_URL"], os.environ["API_KEY"]
ROOT = URL.removesuffix("/v1")
"""Where Anthropic's clients put a /v1 of their own."""
WHO = "Who is Person? Answer in JSON."


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


ANN = Person(name="Ann", age=3)


def weather(city: str) -> str:
    """Tell the weather of a city.

    Args:
        city: the city.
    """
    return "fine"


def try_all(uses: Mapping[str, Callable[[], Any]], expected: Mapping[str, Any] | None = None) -> None:
    """Try uses, which fail by raising, or by anything else than what is expected of them."""
    for name, use in uses.items():
        try:
            found = use()
            found = asyncio.run(found) if inspect.iscoroutine(found) else found
            wanted = (expected or {}).get(name, found)
            ok, said = found == wanted and found not in (None, ""), repr(found)
        except BaseException as error:  # noqa: BLE001 (whatever a framework raises is what came of it)
            ok, said = False, f"{type(error).__name__}: {error}"
        said = re.sub(r"\s+", " ", said)[:160]
        print(json.dumps({"use": name, "ok": bool(ok), "said": said}), flush=True)
