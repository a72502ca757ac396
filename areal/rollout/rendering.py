"""Converts messages to ids with a tokenizer's chat template; sampled ids are never encoded again."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError

from areal.agents.interface import BadRequest, Message, Tool
from areal.errors import UserError, nearest
from areal.images import Image
from areal.models.sight import FAMILIES, Sight
from areal.rollout.messages import as_sampled, pictures
from areal.rollout.tools.formats import FORMATS, speaks_of_channels
from areal.rollout.tools.response import Response, ResponseReader, words_and_calls
from areal.rollout.tools.template import ToolTemplate, tool_template
from areal.thoughts import CLOSE, OPEN, Thought, marks_thoughts, thought_length, thought_of, without_thoughts

log = logging.getLogger(__name__)

_MARK = "\ue000response\ue000"
"""Placeholder of a response, to find the text after it."""
_SPELLED = "\ue000spelled\ue000"
"""Replaces a placeholder that text contains, while the placeholders of images are located."""
_OPENINGS = 256
"""Number of cached openings: more than the number of groups that begin at once."""


_SEE = ", ".join(FAMILIES.values())
_OF_TEMPLATES = (TemplateError, TypeError, ValueError, AttributeError, LookupError, RecursionError)
"""Exceptions of a template for input that it does not support."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt of a response.

    Attributes:
        text: the whole text, as the template renders it.
        ids: for an opening, all ids; for a continuation, those after the existing tokens.
        images: the images whose placeholders are among the ids; ``text`` has one placeholder for each.
    """

    text: str
    ids: list[int]
    images: tuple[Image, ...] = ()


class Renderer:
    """Converts messages to ids with a tokenizer's chat template (or to plain text if it has none).

    Messages have the form of :func:`areal.rollout.messages.normal`.

    Args:
        eos: every token that ends a turn.
        template_kwargs: further arguments of the template.
        keep_thoughts: whether earlier responses keep their thoughts, even if the template drops them.
        sight: how the model processes images; None: it has no vision.
        thought_end: text that ends a thought.

    Attributes:
        eos_ids: every token that ends a turn.
        thought_end_ids: the tokens of ``thought_end``.
        marks_thoughts: whether the template knows the marks of thoughts.
        sees: whether the model accepts images.
    """

    def __init__(
        self,
        tokenizer: Any,
        eos: tuple[int, ...],
        template_kwargs: Mapping[str, Any] | None = None,
        keep_thoughts: bool = False,
        sight: Sight | None = None,
        thought_end: str = CLOSE,
    ) -> None:
        self.sees, self._sight = sight is not None, sight
        self._placeholder = tokenizer.decode([sight.token]) if sight else ""
        self._keeps_thoughts = keep_thoughts
        self._template_kwargs = dict(template_kwargs or {})
        self._tokenizer = tokenizer
        self.eos_ids = eos
        self._reader = ResponseReader(tokenizer, eos, self.decode)
        self._template: str | None = tokenizer.chat_template
        self.marks_thoughts = marks_thoughts(self._template)
        self.thought_end_ids: list[int] = tokenizer.encode(thought_end, add_special_tokens=False)
        marks = _thought_marks(tokenizer)
        self._close = marks.get(CLOSE)
        self._special_marks = {id: mark for mark, id in marks.items() if id in tokenizer.all_special_ids}
        self._warned = False
        # The members of a group begin with the same text, at about the same time.
        self._plain_opening = lru_cache(_OPENINGS)(self._render_plain_opening)

    @cached_property
    def tools(self) -> ToolTemplate:
        """How the chat template handles tools."""
        return tool_template(self._template, self._rendered)

    @cached_property
    def _in_channels(self) -> bool:
        """Whether responses are messages in channels, even without tools."""
        spoken_of = self._template is not None and speaks_of_channels(self._template)
        return spoken_of and self.tools.format is not None and self.tools.format.whole

    def opening(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Render a new conversation, up to the start of the assistant's turn.

        Raises:
            BadRequest: the template refuses it, or there are tools and no template.
        """
        if not tools and all(len(m) == 2 and isinstance(m["content"], str) for m in messages):
            return self._plain_opening(tuple((m["role"], m["content"]) for m in messages))
        text = self._text(messages, tools)
        return self._prompt(text, text, True, pictures(messages), messages, tools)

    def _render_plain_opening(self, messages: tuple[tuple[str, str], ...]) -> Prompt:
        text = self._text([{"role": role, "content": content} for role, content in messages], ())
        return self._prompt(text, text, True, [])

    def continuation(
        self,
        before: str,
        said: str,
        last: int,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        answered: int | None = None,
        shown: int = 0,
    ) -> Prompt | None:
        """Render the text between the assistant's sampled tokens and the start of its next turn.

        Args:
            before: the text of the prompt.
            said: the response as text.
            last: the last sampled token; if it ends the turn, the end is not repeated.
            messages: the history, with its responses exactly as sampled, and the new messages.
            answered: number of messages up to the response, if the tools are those of its prompt; the
                response may then stay unchanged.
            shown: number of images up to the response.

        Returns:
            None if the template rewrites history, so that it no longer contains the prompt and the response
            as they were (except for whitespace around the response).

        Raises:
            BadRequest: the template refuses the messages.
        """
        found = self._behind(before, said, messages, tools, answered)
        if found is None:
            if not self._warned:
                self._warned = True
                log.warning(
                    "the chat template rewrites earlier turns; from such a point on, the conversation "
                    "continues as a new trajectory, whose prompt is the rewritten conversation"
                )
            return None
        text, behind = found
        end = self._tokenizer.decode([last]) if last in self.eos_ids and self._template is not None else ""
        new = behind.removeprefix(end) if end else behind
        return self._prompt(text, new, False, pictures(messages)[shown:], messages, tools)

    def _behind(
        self, before: str, said: str, messages: Sequence[Message], tools: Sequence[Tool], answered: int | None
    ) -> tuple[str, str] | None:
        """Return the whole text, and its part after a response; None: the template rewrites history."""
        calls = any("tool_calls" in message for message in messages)
        as_messages = calls or self._in_channels
        if as_messages and answered is not None and self.tools.writes:
            try:
                behind = self._behind_calls(answered - 1, said, messages, tools)
            except BadRequest:
                behind = None  # for example of two calls; it may accept them as text
            if behind is not None:
                return f"{before}{said}{behind}", behind
        try:
            text = self._text(messages, tools, spelled=True)
        except BadRequest:
            if as_messages:  # as text, which templates may refuse
                return None
            raise
        behind = _behind(text, before, said)
        if behind is None and self._keeps_thoughts and answered is not None:
            rest = self._behind_response(answered - 1, messages, tools)
            if rest is not None and _same_but_thoughts(text.removesuffix(rest), before + said):
                return f"{before}{said}{rest}", rest
        return None if behind is None else (text, behind)

    def _behind_calls(
        self, number: int, said: str, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> str | None:
        """Return the template's text after a response if its calls are passed as calls.

        The template writes calls in its own way, so they are parsed and compared with the response.

        Returns:
            None if the text does not contain the prompt or the response as they were.

        Raises:
            BadRequest: the template refuses the calls.
        """
        text, prompt = self._text(messages, tools), self._text(messages[:number], tools)
        answer = text[len(prompt) :]
        decoded = [self._tokenizer.decode([token]) for token in self.eos_ids]
        ends = [end for end in decoded if end and end in answer]
        if not text.startswith(prompt) or not ends:
            return None
        end = min(map(answer.find, ends))
        known = self.tools.format
        theirs, ours = (words_and_calls(text, known, tools, prompt) for text in (answer[:end], said))
        kept = self._keeps_thoughts and theirs[1] == ours[1] and _same_but_thoughts(theirs[0], ours[0])
        return answer[end:] if theirs == ours or kept else None

    def _behind_response(self, number: int, messages: Sequence[Message], tools: Sequence[Tool]) -> str | None:
        """Return the template's text after a response, regardless of how it renders the response."""
        marked = [*messages[:number], {"role": "assistant", "content": _MARK}, *messages[number + 1 :]]
        _, found, behind = self._text(marked, tools).partition(_MARK)
        return behind if found else None

    def text(self, text: str, known: int = 0) -> Prompt:
        """Return a text without the chat template; ids of its first ``known`` characters already exist."""
        return Prompt(text, self._tokenizer.encode(text[known:], add_special_tokens=not known))

    def spells(self, ids: list[int], text: str) -> bool:
        """Return whether ids represent all of a text, without special tokens, as at the end of a response."""
        return self._tokenizer.decode(ids) == text

    def decode(self, ids: list[int]) -> str:
        """Return the text of sampled ids, without special tokens except marks of thoughts."""
        if not self._special_marks:
            return self._tokenizer.decode(ids, skip_special_tokens=True)
        texts = []
        for mark, part in itertools.groupby(ids, key=self._special_marks.get):
            alike = list(part)
            shown = mark and mark * len(alike)
            texts.append(shown or self._tokenizer.decode(alike, skip_special_tokens=True))
        return "".join(texts)

    def token_texts(self, ids: list[int]) -> list[str]:
        """Return the text of each token by itself, including special ones."""
        return self._tokenizer.batch_decode([[token] for token in ids])

    def response(self, ids: list[int], prompt: str, tools: Sequence[Tool] = ()) -> Response:
        """Read a response to a prompt: its text, and its tool calls if all are valid."""
        if not tools and not self._in_channels:
            text = self.decode(ids)
            return Response(text, text, text)
        return self._reader.read(ids, self.tools.format, tools, prompt)

    def thought_length(self, content: str, prompt: str) -> int:
        """Return the number of characters of a response that are its thought; 0: none is marked."""
        marked = self.marks_thoughts or self._in_channels
        return thought_length(content, prompt) if marked else 0

    def thought_of(self, ids: list[int], prompt: str) -> Thought | None:
        """Return the thought of a response to a prompt; None: the template or prompt excludes thoughts."""
        return thought_of(ids, prompt, self.decode, self._close) if self.marks_thoughts else None

    def check_tools(self) -> None:
        """Check that the model's tool calls can be read.

        Raises:
            UserError: its chat template shows tools in an unknown format.
        """
        if self._template is not None and self.tools.format is None:
            raise UserError(
                "the model's chat template shows tools in a format that areal does not read (it reads "
                f"{', '.join(known.name for known in FORMATS)}); choose a model with one of these "
                "formats, or an agent without tools"
            )

    def _text(self, messages: Sequence[Message], tools: Sequence[Tool], spelled: bool = False) -> str:
        """Return messages as text; ``spelled``: with the responses as they were sampled."""
        if self._sight is None and pictures(messages):
            raise BadRequest(
                f"the messages contain an image, which the model cannot see; choose one of {_SEE}"
            )
        if self._template is None:
            if tools:
                raise BadRequest("the model has no chat template, and tools need one")
            if pictures(messages):
                raise BadRequest("the model has no chat template, and images need one")
            if not any(m["content"] for m in messages):
                raise BadRequest("the messages are empty, and the model has no chat template")
            return _plain(messages)
        if tools:
            self.check_tools()
        if tools or self._in_channels or any("tool_calls" in message for message in messages):
            messages, tools = self.tools.shown(messages, tools, spelled)
        elif spelled:
            messages = [as_sampled(message) for message in messages]
        return self._rendered(messages, tools)

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Tool], begun: bool = True) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=begun,
                **self._template_kwargs,
            )
        except _OF_TEMPLATES as error:
            raise BadRequest(f"the model's chat template rejects the messages: {error}") from error

    def _prompt(
        self,
        text: str,
        new: str,
        first: bool,
        shown: Sequence[bytes],
        messages: Sequence[Message] = (),
        tools: Sequence[Tool] = (),
    ) -> Prompt:
        """Return a prompt; ``new`` is not yet encoded, and its images are ``shown``."""
        ids = self._tokenizer.encode(new, add_special_tokens=first and self._template is None)
        if self._sight is None or not shown:
            return Prompt(text, ids)
        count = ids.count(self._sight.token)
        stands = [True] * count
        if count != len(shown):  # text also contains it
            stands = self._stand_for_pictures(messages, tools)[-count:] if count else []
        if len(stands) != count or sum(stands) != len(shown):
            raise BadRequest(
                f"the model's chat template shows {sum(stands)} of {len(shown)} images; put them in "
                "messages that it does not rewrite"
            )
        return Prompt(text, *self._sight.place(ids, shown, stands))

    def _stand_for_pictures(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[bool]:
        """Return for each placeholder of a text, in order, whether it belongs to an image or to text."""
        messages, tools = (_swapped(list(each), self._placeholder, _SPELLED) for each in (messages, tools))
        text = self._text(messages, tools, spelled=True)
        found = re.findall(f"{re.escape(self._placeholder)}|{_SPELLED}", text)
        return [each == self._placeholder for each in found]


def _swapped(value: Any, old: str, new: str) -> Any:
    """Return plain data with one text replaced by another in all its strings."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {name: _swapped(each, old, new) for name, each in value.items()}
    return [_swapped(each, old, new) for each in value] if isinstance(value, list | tuple) else value


def _thought_marks(tokenizer: Any) -> dict[str, int]:
    """Return the token of each mark of a thought that is a single token."""
    found = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in (OPEN, CLOSE)}
    return {mark: id for mark, id in found.items() if id is not None and tokenizer.decode([id]) == mark}


def _same_but_thoughts(rewritten: str, text: str) -> bool:
    """Return whether a template has only removed thoughts from a text, and added nothing."""
    return without_thoughts(rewritten) == without_thoughts(text)


def _plain(messages: Sequence[Message]) -> str:
    """Return messages as text; a blank line follows a system message and a response."""
    last = len(messages) - 1
    return "".join(
        m["content"] + ("\n\n" if m["role"] in ("system", "assistant") and i < last else "")
        for i, m in enumerate(messages)
    )


def check_template_kwargs(template: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise UserError if a chat template does not read one of its arguments, because it would ignore it."""
    text = template if isinstance(template, str) else " ".join((template or {}).values())
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    for name in kwargs:
        if name not in words:
            meant = nearest(name, [word for word in words if "_" in word])
            what = f"a chat template that does not use '{name}'{meant}" if text else "no chat template"
            raise UserError(f"chat.template_kwargs.{name}: the model has {what}; remove the setting")


def _behind(text: str, before: str, said: str) -> str | None:
    """Return the text after ``before`` and ``said`` in ``text``; templates may trim the response."""
    if not text.startswith(before):
        return None
    if text.startswith(said, len(before)):
        return text[len(before) + len(said) :]
    rest, said = text[len(before) :].lstrip(), said.strip()
    return rest[len(said) :] if rest.startswith(said) else None


def eos_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Return every token that ends a turn: the tokenizer's own and those of a generation configuration."""
    found: list[int] = []
    for value in (tokenizer.eos_token_id, getattr(generation_config, "eos_token_id", None)):
        found.extend([value] if isinstance(value, int) else value or [])
    if not found:
        raise ValueError("the tokenizer has no end-of-sequence token")
    return tuple(dict.fromkeys(found))
