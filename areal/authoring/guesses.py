"""Guesses: answers that are copied from the prompt, and one answer for all problems.

A guess may be right by chance, most often where the answer is a choice. The check counts how often each guess
earns a reward, and warns if that is far more often than chance would give.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field

from areal.authoring.leaks import SHAPING, reward_of_form
from areal.authoring.subject import Subject, short
from areal.envs.pictures import words_of

GUESSED = 32
"""Number of problems that are guessed: enough to reveal a guess that is right twice as often as by chance."""
_UNLIKELY = 1e-4
"""Probability under chance below which a count is not chance; about twenty guesses are tried."""
_LUCK = 0.1
"""Share of problems in which a guess may be right if the prompt names no choices."""
_FORMS = ("{}", "Answer: {}", "\\boxed{{{}}}", "<answer>{}</answer>")
_EXAMPLES = {
    "an example in the prompt": re.compile(
        r"\\boxed\{[^{}]+\}|<answer>[^<>]+</answer>|\banswer *(?:is|:) *[^\s.,;'\"`’”)]+", re.IGNORECASE
    ),
    "a quotation in the prompt": re.compile(r"(?<!\w)(?:\"([^\"\n]+)\"|'([^'\n]+)'|`([^`\n]+)`|“([^”\n]+)”)"),
}
_WORDS = ("yes", "no"), ("true", "false")
_ALPHABETS = (string.ascii_uppercase, string.ascii_lowercase, string.digits[1:])
_CONSTANT = "the constant "
_WARM_UP = 8
"""Number of problems after which a guess that is not right more often than by chance is dropped."""


@dataclass(slots=True)
class _Count:
    """The rewards of a guess beyond those of wrong answers, and how often it would be right by chance.

    Attributes:
        text: the guess in one of the problems.
        earned: its reward in each problem; 0 if a wrong answer earns as much.
        expected: number of problems in which it would be right by chance.
    """

    text: str
    earned: list[float] = field(default_factory=list)
    expected: float = 0.0

    def right(self, top: float) -> int:
        """Return in how many problems it earned the highest reward of any guess, or almost that."""
        return sum(0 < 0.9 * top <= reward for reward in self.earned)

    def is_chance(self, top: float) -> bool:
        """Return whether it may have been right this often by chance."""
        tried, chance = len(self.earned), self.expected / len(self.earned)
        tail = range(self.right(top), tried + 1)
        return sum(math.comb(tried, k) * chance**k * (1 - chance) ** (tried - k) for k in tail) >= _UNLIKELY

    def rate(self, top: float) -> str:
        """Return how often it was right, for a message."""
        tried, right = len(self.earned), self.right(top)
        return (
            f"earns a reward in {right} of {tried} problems ({right / tried:.0%}), where chance is about "
            f"{self.expected / tried:.0%}"
        )


def guesses_are_chance(subject: Subject) -> str:
    """No answer that is copied from the prompt, or the same for all problems, is right far beyond chance."""
    counts: dict[tuple[str, str], _Count] = {}
    for number, task in enumerate(_distinct(subject)):
        prompt = words_of(subject.reset(subject.env, task)[0])
        choices = choices_in(prompt)
        guesses = [*_copies(prompt, len(choices)), *((c, "", 1 / len(choices)) for c in choices)]
        worst = _rewards_of_wrong(subject, task, choices)
        for form in _FORMS:
            for text, place, chance in guesses:
                key = (place or f"{_CONSTANT}{text}", form)
                if key not in counts and number >= _WARM_UP:
                    continue
                count = counts.setdefault(key, _Count(form.format(text)))
                if number >= _WARM_UP and sum(map(bool, count.earned)) <= count.expected:
                    continue
                earned = subject.run_episode(subject.env, task, form.format(text)).reward
                count.earned.append(earned if earned > worst else 0.0)
                count.expected += chance
        if subject.turns > 1 and not subject.solves:
            return "a move of a game may be one that the observation names"
    return _verdict(subject, counts)


def _verdict(subject: Subject, counts: dict[tuple[str, str], _Count]) -> str:
    top = max((reward for count in counts.values() for reward in count.earned), default=0.0)
    found = {key: count for key, count in counts.items() if not count.is_chance(top)}
    if not found:
        return "no copied or constant answer earns a reward more often than chance"
    # A constant that an example in the prompt also names is right without the example.
    best = max(found, key=lambda key: (found[key].right(top), key[0].startswith(_CONSTANT)))
    (place, form), text, rate = best, short(found[best].text), found[best].rate(top)
    if place.startswith(_CONSTANT):
        said, mend = f"the same answer, {text},", "balance the problems, so that no answer is right for most"
    else:
        copied = "copied" if form == "{}" else f"copied as {form.format('…')!r}"
        said = f"{place}, {copied}, such as {text},"
        mend = "the prompt must not contain the right answer"
    subject.warn(f"{said} {rate}; {mend}")
    return f"the best guess {rate}"


def _distinct(subject: Subject) -> Iterator[dict[str, object]]:
    """Yield the reset arguments of different problems; a small split repeats them."""
    seen = set()
    for task in subject.tasks(GUESSED):
        if (which := repr(task.get("options", task))) not in seen:
            seen.add(which)
            yield task


def choices_in(prompt: str) -> list[str]:
    """Return the choices that a prompt names: the letters or numbers of a list, or yes and no, or none."""
    for alphabet in _ALPHABETS:
        named = set(re.findall(rf"(?<![\w.])([{alphabet}])(?:\)|[.:](?=\s))[ \t]*\S", prompt))
        count = next((i for i, name in enumerate(alphabet) if name not in named), len(alphabet))
        if count > 1:
            return list(alphabet[:count])
    for words in _WORDS:
        found = [re.search(rf"\b{word}\b", prompt, re.IGNORECASE) for word in words]
        if all(found):
            return [each[0] for each in found if each]
    return []


def _copies(prompt: str, choices: int) -> Iterator[tuple[str, str, float]]:
    """Yield texts of a prompt with their places, and how often each would be right by chance."""
    by_chance = 1 / choices if choices else _LUCK
    for place, pattern in _EXAMPLES.items():
        found = [next(filter(None, match.groups()), match[0]) for match in pattern.finditer(prompt)]
        # Several quotations may themselves be the choices.
        chance = max(by_chance, 1 / len(found) if len(found) > 1 else 0.0)
        for i, text in enumerate(dict.fromkeys(found[:4])):
            yield text.strip(), place if len(found) == 1 else f"{place} (number {i + 1})", chance
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    if len(lines) > 1:
        # Several lines may be, too.
        yield lines[-1], "the last line of the prompt", max(by_chance, 1 / max(2, len(lines) - 1))
    if lines and (end := lines[-1].rpartition(":")[2].strip(" .")) and end != lines[-1]:
        yield end, "the text after the last colon of the prompt", max(by_chance, _LUCK)


def _rewards_of_wrong(subject: Subject, task: dict[str, object], choices: list[str]) -> float:
    """Return the most that an answer earns without being right; with a known solution, almost its reward."""
    if subject.solves:
        return reward_of_form(subject, task, "{}")
    wrong = [reward_of_form(subject, task, form) for form in _FORMS]
    if len(choices) > 1:  # one of them is wrong, but may earn a reward for its form
        for form in _FORMS:
            earned = [subject.run_episode(subject.env, task, form.format(text)).reward for text in choices]
            wrong.append(min(earned) + SHAPING)
    return max(wrong)
