"""Templates with the fields of a row: ``{question}``, ``{reward_model[ground_truth]}``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from areal.envs.forms import asked_by, decoded, one_text
from areal.envs.rows import Row
from areal.errors import UserError

_FIRST = re.compile(r"\w*")


class Template:
    """A template with the fields of a row.

    Args:
        name: name of its option, for error messages.
        text: a template of Python's ``str.format``; literal braces are doubled.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text

    @property
    def whole(self) -> set[str]:
        """The fields that it contains as a whole, not in part."""
        try:
            parsed = [name for _, name, _, _ in string.Formatter().parse(self._text) if name]
        except ValueError:  # filling the template reports the error
            return set()
        return {name for name in parsed if _FIRST.fullmatch(name)}

    def filled(self, row: Row, where: str, shown: Callable[[Any, str], str]) -> str:
        """Fill in a row's fields.

        ``shown`` converts the value of a field to text; its second argument starts its error messages, as
        ``where`` does.

        Raises:
            UserError: the row lacks a field, or the template is invalid.
        """
        try:
            return _Formatter(f"{where}: the {self._name}", shown).vformat(self._text, (), row)
        except KeyError as error:
            known = ", ".join(map(str, row))
            raise UserError(
                f"{where}: the {self._name} needs {{{error.args[0]}}}, but the row has only: {known} (double "
                "braces that are not a field)"
            ) from error
        except (IndexError, TypeError) as error:
            raise UserError(
                f"{where}: the {self._name} {self._text!r} names something that the row does not have "
                f"({error}); double braces that are not a field"
            ) from error
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"the {self._name} {self._text!r} is not a valid template ({error}); double its own braces: "
                "{{}}"
            ) from error


class _Formatter(string.Formatter):
    def __init__(self, what: str, shown: Callable[[Any, str], str]) -> None:
        self._what = what
        self._shown = shown
        self._field = ""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Look up a field; for parts of a text, the text is read as JSON."""
        self._field = field_name
        first = _FIRST.match(field_name)
        name = first.group() if first else ""
        if name != field_name and isinstance(kwargs.get(name), str):
            kwargs = {**kwargs, name: decoded(kwargs[name], kwargs[name])}
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        """Convert a field to text."""
        if format_spec and value is not None:
            return super().format_field(value, format_spec)
        return self._shown(value, f"{self._what}: {{{self._field}}}")


def in_prompt(value: Any, what: str) -> str:
    """Return a field for a prompt: of messages, the last of the user; raises UserError if it is empty."""
    if value is None:
        raise UserError(f"{what} is null; give the field a value, or remove the row")
    messages = asked_by(value, "it", what)
    return str(value) if messages is None else messages.problem


def as_answer(value: Any, what: str) -> str:
    """Return a scalar, or the only element of a list, as the expected answer; raises UserError otherwise."""
    text = one_text(value, what)
    if text is None:
        raise UserError(f"{what} contains no answer; give the field a value, or remove the row")
    return text
