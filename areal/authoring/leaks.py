"""Attacks on the rewards of an environment: copied answers, and actions that are not answers.

A check cannot decide whether answers are hidden without knowing them, so it attacks: it submits as the answer
whatever appears in the observation or in ``info``, at the same place in most problems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from areal.authoring.rules import checked_rewards
from areal.authoring.subject import FILLERS, Broken, Subject, short
from areal.envs.pictures import words_of

HOSTILE = {
    "nothing": "",
    "white space": " \n\t\r",
    "a null character": "\0",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x1b[2J",
    "half of a surrogate pair": "\ud800",
    "other scripts and emoji": "é𝄞 \u202e שלום \u0661\u0662 👩‍👩‍👧",
    "100,000 characters": "a" * 100_000,
    "an unclosed box": "\\boxed{",
    "10,000 braces": "\\boxed" + "{" * 10_000,
    "10,000 parentheses": "\\boxed{" + "(" * 10_000 + "}",
    "a number of 5,000 digits": "\\boxed{" + "9" * 5_000 + "}",
    "a huge power": "\\boxed{9^{9^{9^9}}}",
    "not a number": "\\boxed{nan}",
    "infinity": "\\boxed{inf}",
    "every number": " ".join(map(str, range(-200, 1000))),
    "a format string": "{0.__class__} %s%n ${x}",
    "an unclosed code block": "```python\nwhile True",
    "code that ends the process": "```python\nimport os; os._exit(0)\n```",
    "broken JSON": '{"answer": [',
    "markup": "<answer><answer></answer>",
}
"""Actions that a policy may take at some point; none is an answer."""
_FORMS = ("{}", "\\boxed{{{}}}", "<answer>{}</answer>", "```\n{}\n```")
_MEANINGLESS = (*FILLERS, "-7919")
_MAX_WORDS = 15
_LEAK = 0.8
"""Share of the problems above which a reward for copied text is not chance."""
SHAPING = 0.01
"""Difference between rewards that does not show a right answer; a penalty for length makes smaller ones."""
_WORD = re.compile(r"[^\s,;:!?(){}]+")


def answers_are_hidden(subject: Subject) -> str:
    """Text from observations and info earns nothing as an answer."""
    tasks = subject.tasks()
    wins: dict[tuple[str, str], list[float]] = {}
    for number, task in enumerate(tasks):
        seen = _seen(subject, task)
        for form in _FORMS:
            least = reward_of_form(subject, task, form)
            for place, text in seen.items():
                # After a few problems, keep only what has earned a reward in half of them.
                if number >= 4 and len(wins.get((place, form), ())) * 2 < number:
                    continue
                if (earned := subject.run_episode(subject.env, task, form.format(text)).reward) > least:
                    wins.setdefault((place, form), []).append(earned)
    often = {handed: earned for handed, earned in wins.items() if len(earned) >= _LEAK * len(tasks)}
    if not often:
        return "no text in an observation or info earns a reward as an answer"
    place, form = max(often, key=lambda handed: sum(often[handed]))
    count = len(often[place, form])
    found = f"{place}, as the answer {form.format('…')!r}, earns a reward in {count} of {len(tasks)} problems"
    if not _is_game(subject):
        raise Broken(f"{found}, so it reveals the answer; keep the answer in an attribute of the environment")
    mean = sum(often[place, form]) / count
    subject.warn(
        f"{found} ({mean:.3g} on average); a move of a game may earn a partial reward, but should not win"
    )
    return f"{found}, which a move of a game may"


def _is_game(subject: Subject) -> bool:
    """Return whether it has several turns and no known solution; any move may then earn a partial reward."""
    return subject.turns > 1 and not subject.solves


def reward_of_form(subject: Subject, task: dict[str, Any], form: str) -> float:
    """Return the reward of the form alone, with room for shaping; of a known solution, almost its reward."""
    if subject.solves:
        return subject.run_episode(subject.env, task, None).reward - 1e-9
    return (
        max(subject.run_episode(subject.env, task, form.format(filler)).reward for filler in _MEANINGLESS)
        + SHAPING
    )


def _seen(subject: Subject, task: dict[str, Any]) -> dict[str, str]:
    """Return the texts that an episode shows, by their place."""
    episode = subject.run_episode(subject.env, task, FILLERS[0])
    seen = {**_words("the observation", episode.observation), **_leaves("info", episode.info)}
    observation, _, terminated, truncated, info = episode.steps[0]
    if terminated or truncated:  # the environment may then reveal the correct answer
        info = {name: value for name, value in info.items() if name != "expected"}
    return {**seen, **_words("the observation of a step", observation), **_leaves("a step's info", info)}


def _words(place: str, observation: Any) -> dict[str, str]:
    text = words_of(observation)
    words = _WORD.findall(text)
    first = {f"word {i + 1} of {place}": word.strip(".") for i, word in enumerate(words[:_MAX_WORDS])}
    last = {
        f"word {i} from the end of {place}": w.strip(".")
        for i, w in enumerate(words[: -_MAX_WORDS - 1 : -1], 1)
    }
    return {**first, **last, **({f"all of {place}": text} if text else {})}


def _leaves(place: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _leaves(f"{place}[{key!r}]", inner).items()}
    if isinstance(value, list | tuple):
        return {k: v for i, inner in enumerate(value) for k, v in _leaves(f"{place}[{i}]", inner).items()}
    text = str(value)
    words = _WORD.findall(text)
    return {place: text, **({f"the last word of {place}": words[-1].strip(".")} if len(words) > 1 else {})}


def hostile_actions_fail(subject: Subject) -> str:
    """Actions that are not answers neither raise nor earn a reward."""
    env, earned = subject.env, list[str]()
    for task in subject.tasks(3):
        top = (min if subject.solves else max)(reward_of_form(subject, task, form) for form in _FORMS)
        for name, action in HOSTILE.items():
            episode = subject.run_episode(env, task, action)
            checked_rewards(episode)
            for observation, *_ in episode.steps:
                if observation not in env.observation_space:
                    raise Broken(
                        f"the action {name} leads to an observation outside of the observation space"
                    )
            if episode.reward > top:
                earned.append(f"{name} ({short(action)}) earns {episode.reward:g}")
                if not _is_game(subject):
                    raise Broken(
                        f"{earned[0]}; a verifier must look for the answer only where it belongs, and count "
                        "an unreadable answer as wrong"
                    )
    if earned:
        subject.warn(f"{earned[0]}; a move of a game may earn a partial reward, but should not win")
        return f"none of the {len(HOSTILE)} actions raises"
    return f"none of the {len(HOSTILE)} actions raises or earns a reward"
