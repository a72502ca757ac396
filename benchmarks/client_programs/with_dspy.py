"""DSPy: its adapters. The scripted model answers no field as DSPy marks it, but JSON."""

from __future__ import annotations

import dspy
from uses import KEY, URL, try_all


class Who(dspy.Signature):
    """Say who Person is, in JSON."""

    question: str = dspy.InputField()
    name: str = dspy.OutputField()
    age: int = dspy.OutputField()


MODEL = dspy.LM("openai/m", api_base=URL, api_key=KEY, cache=False)


def predicted(adapter: dspy.Adapter) -> tuple[str, int]:
    with dspy.context(lm=MODEL, adapter=adapter):
        found = dspy.Predict(Who)(question="Who is Person?")
    return found.name, found.age


def sampled() -> int:
    with dspy.context(lm=MODEL, adapter=dspy.JSONAdapter()):
        return len(dspy.Predict(Who, n=3, temperature=0.7)(question="Who is Person?").completions)


try_all(
    {
        "message": lambda: MODEL("Hello?")[0],
        "JSON": lambda: predicted(dspy.JSONAdapter()),
        "chat, then JSON": lambda: predicted(dspy.ChatAdapter()),
        "three at once": sampled,
    },
    {"JSON": ("Ann", 3), "chat, then JSON": ("Ann", 3), "three at once": 3},
)
