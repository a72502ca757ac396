"""Finds the question and the answer of a row by its fields, in the formats of TRL, verl, prime-rl and others.

A question is text, or a list of messages that ends with the user's. The answer is in the first of the fields
REFERENCES that has one.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from areal.envs.rows import Row, is_conversation
from areal.errors import UserError

Opening = tuple[tuple[str, str], ...]
"""Messages before the question, as pairs of role and text."""

PROBLEM_KEYS = ("problem", "question", "prompt")
ANSWER_KEYS = ("answer", "solution", "response")

_MORE_PROBLEM_KEYS = ("instruction", "input", "inputs", "query", "ctx")
_STORIES = {"body": " ", "context": "\n", "passage": "\n", "support": "\n"}
"""A field with the context of a question (SVAMP, SQuAD, BoolQ, SciQ), and the separator of the two."""
_SYSTEM_KEYS = ("system", "system_prompt")
_PROMPTS = ("prompt", "responses_create_params.input")
"""Fields for the messages of a prompt."""
_CONVERSATIONS = (
    *("messages", "context_messages", "conversations", "conversation", "input", "question", "problem"),
)
"""Fields for messages that are a prompt if they end with the user's, and otherwise a transcript."""
REFERENCES = (
    *("reward_model.ground_truth", "reward_spec.ground_truth", "verification_info.ground_truth"),
    *("answer", "expected_answer", "ground_truth", "final_answer", "reference_answer", "gt_answer"),
    *("solution", "response", "label", "target", "targets", "output", "completion"),
    *("extra_info.ground_truth", "extra_info.answer", "verifier_metadata.expected_answer"),
)
"""Fields for the expected answer: first fields for judging, last fields that merely contain the answer."""
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
}
_LIKE_MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:")
_BETWEEN = re.compile(r"\}\s*\{(?=\s*['\"](?:role|content|from|value)['\"]\s*:)")
"""NumPy writes no commas; CSV files of data frames contain messages in this form."""
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_LITERALS = re.compile(rf"\s*\[\s*(?:{_LITERAL.pattern})(?:[\s,]+(?:{_LITERAL.pattern}))*\s*\]\s*", re.DOTALL)
"""A list of texts, separated by commas or, in NumPy's form, by space."""
_NAMES = {
    "reward_model": "verl",
    "reward_spec": "SkyRL",
    "verification_info": "prime-rl",
    "responses_create_params": "NeMo Gym",
    "conversations": "ShareGPT",
}
"""Names of formats with such a field; others are named after their fields."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The question of a row.

    Attributes:
        problem: the question, as text.
        opening: the messages before it.
        field: the field with the question.
        said: the assistant's reply in a transcript, which is a solution; None: it is not a transcript.
    """

    problem: str
    opening: Opening
    field: str
    said: str | None = None


def asked(row: Row, where: str, keys: Sequence[str] = PROBLEM_KEYS) -> Asked:
    """Return the question of a row: messages that end with the user's, or else text, or else the last
    question of a transcript.

    Args:
        row: its fields.
        where: its place, for messages.
        keys: fields for text, of which the first non-empty one is used.

    A system prompt in a separate field comes first.

    Raises:
        UserError: there is no question, messages cannot be read, or there are images.
    """
    found = _asked(row, where, keys)
    if "<image>" in found.problem and any(row.get(key) for key in ("image", "images")):
        raise UserError(
            f"{where}: it contains images, which this environment does not show; remove such rows"
        )
    system = next((text for key in _SYSTEM_KEYS if (text := as_text(row.get(key))) is not None), None)
    if system is None or any(role == "system" for role, _ in found.opening):
        return found
    return replace(found, opening=(("system", system), *found.opening))


def _asked(row: Row, where: str, keys: Sequence[str]) -> Asked:
    for path in _PROMPTS:
        if (found := _asked_at(row, path, where)) is not None:
            return found
    text = _asked_in_text(row, where, keys)
    for path in _CONVERSATIONS:
        try:
            found = _asked_at(row, path, where)
        except UserError:  # the fields beside the text need not be readable
            if text is None:
                raise
            continue
        if found is not None and (found.said is None or text is None):
            return found
    if text is None:
        raise UserError(f"{where}: none of the keys {', '.join(keys)} contains text (found: {_found(row)})")
    return text


def _asked_in_text(row: Row, where: str, keys: Sequence[str]) -> Asked | None:
    for key in (*keys, *(k for k in _MORE_PROBLEM_KEYS if k not in keys)):
        if (text := as_text(at(row, key))) is not None and conversation(at(row, key)) is None:
            more = as_text(row.get("input")) if key == "instruction" else None
            stories = ((as_text(at(row, name)), parted) for name, parted in _STORIES.items())
            story = "".join(f"{said}{parted}" for said, parted in stories if said and said not in text)
            text = f"{story}{text}" if more is None else f"{story}{text}\n{more}"
            return Asked(text, _history(row, where), key)
    return None


def _history(row: Row, where: str) -> Opening:
    """Return the history of a conversation, as pairs of both sides, in the format of LLaMA-Factory."""
    held = row.get("history")
    turns = decoded(held, None) if isinstance(held, str) else held
    if not turns:
        return ()
    if not isinstance(turns, list) or not all(isinstance(t, list | tuple) and len(t) == 2 for t in turns):
        raise UserError(f"{where}: history is not a list of pairs of a user's and an assistant's message")
    return tuple(pair for said, answer in turns for pair in (("user", str(said)), ("assistant", str(answer))))


def _asked_at(row: Row, path: str, where: str) -> Asked | None:
    """Return the question in the messages at a path; None: there are none."""
    held = at(row, path)
    if not path.startswith("responses_create_params."):
        return asked_by(held, path, where)
    request = at(row, "responses_create_params")
    if isinstance(held, str) and held.strip():
        held = [{"role": "user", "content": held}]
    if conversation(held) is None:
        return None
    if request.get("tools"):
        raise UserError(f"{where}: it requests tools, which data cannot provide; see the agent tool-use")
    if (text := as_text(request.get("instructions"))) is not None:
        held = [{"role": "system", "content": text}, *held]
    return asked_by(held, path, where)


def asked_by(value: Any, field: str, where: str) -> Asked | None:
    """Return the question in messages in the format of OpenAI or ShareGPT, also as JSON; None: the value has
    another format.

    Raises:
        UserError: the messages cannot be read, or do not end with a question.
    """
    if (listed := conversation(value)) is None:
        if isinstance(value, str) and _LIKE_MESSAGES.match(value):
            raise UserError(f"{where}: {field} looks like messages, but cannot be read; write them as JSON")
        return None
    messages, said = [_message(message, where) for message in listed], None
    if messages[-1][0] == "assistant" and field == "prompt":
        raise UserError(
            f"{where}: the prompt ends with a message of the assistant, but the model answers the user; "
            "remove that message"
        )
    while messages and messages[-1][0] == "assistant":
        said = messages.pop()[1]
    if not messages or messages[-1][0] != "user" or not messages[-1][1].strip():
        raise UserError(f"{where}: the messages of {field} do not end with a message of the user")
    return Asked(messages[-1][1], tuple(messages[:-1]), field, said)


def reference(row: Row, question: Asked, where: str) -> tuple[str, str]:
    """Return the text with the expected answer, and the name of its field.

    Raises:
        UserError: no field has an answer, or a field has several.
    """
    for path in REFERENCES:
        if (said := conversation(at(row, path))) is not None:
            role, words = _message(said[-1], where)
            if role == "assistant":
                return words, path
        elif (text := one_text(at(row, path), f"{where}: {path}")) is not None:
            return text, path
    if question.said is not None:
        return question.said, "the assistant's last message"
    raise UserError(
        f"{where}: none of the keys {', '.join(ANSWER_KEYS)}, reward_model.ground_truth, expected_answer, "
        f"label and similar ones contains text (found: {_found(row)})"
    )


def form_name(row: Row, question: Asked, answer: str) -> str:
    """Return the name of the format of a row."""
    top = {question.field.partition(".")[0], answer.partition(".")[0]}
    name = next((name for key, name in _NAMES.items() if key in top), None)
    if name is not None:
        return f"{name} rows"
    if question.field == "prompt" and isinstance(row.get("prompt"), list):
        return f"chat rows (prompt, {answer})"
    return f"rows of {question.field} and {answer}"


def as_text(value: Any) -> str | None:
    """Return a scalar as text; None for null, blank and NaN (also in their CSV forms)."""
    if value is None or isinstance(value, list | tuple | dict):
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return None if text.strip() in ("", "nan", "NaN") else text


def one_text(value: Any, what: str) -> str | None:
    """Return the only text in a field, if any: a scalar, or a list of one (also as JSON).

    Raises:
        UserError: the field has several texts, or an object; the message begins with ``what``.
    """
    if isinstance(value, str) and value.lstrip().startswith(('["', "['")):
        value = decoded(value, value)
    if isinstance(value, dict):
        inner = next((value[k] for k in ("ground_truth", "value", "answer") if k in value), None)
        if inner is None and any(v is not None for v in value.values()):
            raise UserError(
                f"{what} is an object ({', '.join(map(str, value))}); select the part that is the answer "
                "with data-v1 and a template, such as answer='{label[value]}'"
            )
        return one_text(inner, what)
    if not isinstance(value, list | tuple):
        return as_text(value)
    texts = list(dict.fromkeys(text for text in (one_text(item, what) for item in value) if text))
    if len(texts) > 1:
        raise UserError(
            f"{what} has {len(texts)} answers ({', '.join(texts)[:80]}); select one with data-v1 and a "
            "template, such as answer='{answer[0]}'"
        )
    return texts[0] if texts else None


def conversation(value: Any) -> list[Any] | None:
    """Return a list of messages, also from text; None if a value is not a list of messages."""
    if isinstance(value, str) and _LIKE_MESSAGES.match(value):
        value = decoded(_BETWEEN.sub("}, {", value), None) if (read := decoded(value, None)) is None else read
    return list(value) if is_conversation(value) else None


def _message(message: Row, where: str) -> tuple[str, str]:
    name = message.get("role") or message.get("from")
    role = _ROLES.get(str(name).lower())
    if role is None:
        raise UserError(f"{where}: a message has the role {name!r}; it must be system, user or assistant")
    if message.get("tool_calls") or message.get("function_call"):
        raise UserError(
            f"{where}: a message has tool calls, which data cannot provide; see the agent tool-use"
        )
    contents = (message.get(key) for key in ("content", "value", "ground_truth"))
    content = next((held for held in contents if held is not None), None)
    if isinstance(content, list):
        if not all(
            isinstance(p, str) or (isinstance(p, dict) and isinstance(p.get("text"), str)) for p in content
        ):
            raise UserError(
                f"{where}: a message has parts other than text, such as an image, which this environment "
                "does not show"
            )
        return role, "".join(part if isinstance(part, str) else part["text"] for part in content)
    if isinstance(content, dict):
        content = one_text(content, f"{where}: a message")
    return role, "" if content is None else str(content)


def at(row: Row, path: str) -> Any:
    """Return the value of a row at a path, such as ``reward_model.ground_truth``; objects may be JSON."""
    value: Any = row
    for key in path.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = decoded(value, None)
        if not isinstance(value, dict):
            return None
        value = value.get(key, value.get(key.title()))  # some files have Problem and Answer
    return value


def decoded(text: str, otherwise: Any) -> Any:
    """Parse JSON, or the form in which Python or NumPy write it to CSV files."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        if _LITERALS.fullmatch(text):  # Python reads ['a' 'b'] as a single string
            return [ast.literal_eval(found.group()) for found in _LITERAL.finditer(text)]
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return otherwise


def _found(row: Row) -> str:
    return ", ".join(map(str, row)) or "nothing"
