"""From messages to ids, by a tokenizer's chat template; ids that were sampled are never encoded again."""

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
"""Stands for a response: what comes behind it is looked for."""
_SPELLED = "\ue000spelled\ue000"
"""Stands for a placeholder that words spell, while those of pictures are looked for."""
_OPENINGS = 256
"""Rendered openings to remember: more than the groups that begin at once."""


_SEE = ", ".join(FAMILIES.values())
_OF_TEMPLATES = (TemplateError, TypeError, ValueError, AttributeError, LookupError, RecursionError)
"""What a template raises that is given what it was not written for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What leads up to a response.

    Attributes:
        text: all of it, as the template has it.
        ids: of an opening all of it; of a continuation what comes behind the tokens that are there already.
        images: whose placeholders are among the ids; ``text`` has one placeholder for each.
    """

    text: str
    ids: list[int]
    images: tuple[Image, ...] = ()


class Renderer:
    """Turns messages into ids with a tokenizer's chat template (or plain text where it has none).

    Messages are in the form of :func:`areal.rollout.messages.normal`.

    Args:
        eos: every token that ends a turn.
        template_kwargs: what the template takes besides.
        keep_thoughts: whether earlier responses stay as they were, also where the template drops thoughts.
        sight: what the model makes of pictures; None: it sees nothing.
        thought_end: text that ends a thought.

    Attributes:
        eos_ids: every token that ends a turn.
        thought_end_ids: the tokens of ``thought_end``.
        marks_thoughts: whether the template knows the marks of thoughts.
        sees: whether the model can be shown pictures.
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
        # The members of a group begin with the same words, at about the same time.
        self._plain_opening = lru_cache(_OPENINGS)(self._render_plain_opening)

    @cached_property
    def tools(self) -> ToolTemplate:
        """What the chat template does with tools."""
        return tool_template(self._template, self._rendered)

    @cached_property
    def _in_channels(self) -> bool:
        """Whether responses are messages in channels, also where there are no tools."""
        spoken_of = self._template is not None and speaks_of_channels(self._template)
        return spoken_of and self.tools.format is not None and self.tools.format.whole

    def opening(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Render a new conversation, up to where the assistant speaks.

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
        """Render what comes between the assistant's sampled tokens and where it speaks again.

        Args:
            before: the text of its prompt.
            said: its response as text.
            last: its last sampled token; where that ends the turn, the end is not repeated.
            messages: the history, the responses in it as they were said, word for word, and what is new.
            answered: how many of them there are up to the response, if the tools are those of its prompt:
                it may then stay as it was.
            shown: how many pictures there are up to the response.

        Returns:
            None if the template rewrites history: it no longer has the prompt and the response as they were
            (whitespace around the response aside).

        Raises:
            BadRequest: the template refuses it.
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
        """Return the whole text, and what of it is behind a response; None: the template rewrites history."""
        calls = any("tool_calls" in message for message in messages)
        as_messages = calls or self._in_channels
        if as_messages and answered is not None and self.tools.writes:
            try:
                behind = self._behind_calls(answered - 1, said, messages, tools)
            except BadRequest:
                behind = None  # for instance of two calls; as words it may take them
            if behind is not None:
                return f"{before}{said}{behind}", behind
        try:
            text = self._text(messages, tools, spelled=True)
        except BadRequest:
            if as_messages:  # as words, which templates may refuse
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
        """Return what the template has behind a response where it is given calls as calls.

        It spells them in its own way, so that they are read again, and compared with what was said.

        Returns:
            None if it does not have what led to the response, or the response, as they were.

        Raises:
            BadRequest: the template refuses them.
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
        """Return what the template has behind a response, whatever it makes of that one's words."""
        marked = [*messages[:number], {"role": "assistant", "content": _MARK}, *messages[number + 1 :]]
        _, found, behind = self._text(marked, tools).partition(_MARK)
        return behind if found else None

    def text(self, text: str, known: int = 0) -> Prompt:
        """Return a text without the chat template; of it ids are there already for ``known`` characters."""
        return Prompt(text, self._tokenizer.encode(text[known:], add_special_tokens=not known))

    def spells(self, ids: list[int], text: str) -> bool:
        """Whether ids are all of a text: no special token, as at the end of a response, is among them."""
        return self._tokenizer.decode(ids) == text

    def decode(self, ids: list[int]) -> str:
        """Return the text of sampled ids, without special tokens but for marks of thoughts."""
        if not self._special_marks:
            return self._tokenizer.decode(ids, skip_special_tokens=True)
        texts = []
        for mark, part in itertools.groupby(ids, key=self._special_marks.get):
            alike = list(part)
            shown = mark and mark * len(alike)
            texts.append(shown or self._tokenizer.decode(alike, skip_special_tokens=True))
        return "".join(texts)

    def token_texts(self, ids: list[int]) -> list[str]:
        """Return the text of each token by itself, special ones too."""
        return self._tokenizer.batch_decode([[token] for token in ids])

    def response(self, ids: list[int], prompt: str, tools: Sequence[Tool] = ()) -> Response:
        """Read a response to a prompt: its words, and its tool calls if all are valid."""
        if not tools and not self._in_channels:
            text = self.decode(ids)
            return Response(text, text, text)
        return self._reader.read(ids, self.tools.format, tools, prompt)

    def thought_length(self, content: str, prompt: str) -> int:
        """Return how many characters of a response to a prompt are its thought; 0: none is marked."""
        marked = self.marks_thoughts or self._in_channels
        return thought_length(content, prompt) if marked else 0

    def thought_of(self, ids: list[int], prompt: str) -> Thought | None:
        """Return the thought of a response to a prompt; None: the template, or the prompt, rules it out."""
        return thought_of(ids, prompt, self.decode, self._close) if self.marks_thoughts else None

    def check_tools(self) -> None:
        """Make sure that the model's calls of tools can be read.

        Raises:
            UserError: its chat template shows tools in a format that is not known.
        """
        if self._template is not None and self.tools.format is None:
            raise UserError(
                "the model's chat template shows tools in a format that areal does not read (it reads "
                f"{', '.join(known.name for known in FORMATS)}); choose a model with one of these "
                "formats, or an agent without tools"
            )

    def _text(self, messages: Sequence[Message], tools: Sequence[Tool], spelled: bool = False) -> str:
        """Return messages as text; ``spelled``: the responses in them as they were sampled."""
        if self._sight is None and pictures(messages):
            raise BadRequest(
                f"the messages contain a picture, which the model cannot see; choose one of {_SEE}"
            )
        if self._template is None:
            if tools:
                raise BadRequest("the model has no chat template, and tools need one")
            if pictures(messages):
                raise BadRequest("the model has no chat template, and pictures need one")
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
        """Return a prompt of which ``new`` has yet to become ids, and whose pictures are ``shown``."""
        ids = self._tokenizer.encode(new, add_special_tokens=first and self._template is None)
        if self._sight is None or not shown:
            return Prompt(text, ids)
        count = ids.count(self._sight.token)
        stands = [True] * count
        if count != len(shown):  # words spell it, too
            stands = self._stand_for_pictures(messages, tools)[-count:] if count else []
        if len(stands) != count or sum(stands) != len(shown):
            raise BadRequest(
                f"the model's chat template shows {sum(stands)} of {len(shown)} pictures; put them in "
                "messages that it does not rewrite"
            )
        return Prompt(text, *self._sight.place(ids, shown, stands))

    def _stand_for_pictures(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[bool]:
        """Return for each placeholder of a text, in order, whether a picture or words have it."""
        messages, tools = (_swapped(list(each), self._placeholder, _SPELLED) for each in (messages, tools))
        text = self._text(messages, tools, spelled=True)
        found = re.findall(f"{re.escape(self._placeholder)}|{_SPELLED}", text)
        return [each == self._placeholder for each in found]


def _swapped(value: Any, old: str, new: str) -> Any:
    """Return plain data with one text in place of another in all its strings."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {name: _swapped(each, old, new) for name, each in value.items()}
    return [_swapped(each, old, new) for each in value] if isinstance(value, list | tuple) else value


def _thought_marks(tokenizer: Any) -> dict[str, int]:
    """Return the token of each mark of a thought that is one by itself."""
    found = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in (OPEN, CLOSE)}
    return {mark: id for mark, id in found.items() if id is not None and tokenizer.decode([id]) == mark}


def _same_but_thoughts(rewritten: str, text: str) -> bool:
    """Whether a template has taken nothing out of a text but thoughts, and put nothing in."""
    return without_thoughts(rewritten) == without_thoughts(text)


def _plain(messages: Sequence[Message]) -> str:
    """Return messages as text; a blank line parts a system message, and a response, from what follows."""
    last = len(messages) - 1
    return "".join(
        m["content"] + ("\n\n" if m["role"] in ("system", "assistant") and i < last else "")
        for i, m in enumerate(messages)
    )


def check_template_kwargs(template: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise UserError where a chat template does not read what it would be given: it would say nothing."""
    text = template if isinstance(template, str) else " ".join((template or {}).values())
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    for name in kwargs:
        if name not in words:
            meant = nearest(name, [word for word in words if "_" in word])
            what = f"a chat template that does not use '{name}'{meant}" if text else "no chat template"
            raise UserError(f"chat.template_kwargs.{name}: the model has {what}; remove the setting")


def _behind(text: str, before: str, said: str) -> str | None:
    """Return what follows ``before`` and ``said`` in ``text``; templates may trim what was said."""
    if not text.startswith(before):
        return None
    if text.startswith(said, len(before)):
        return text[len(before) + len(said) :]
    rest, said = text[len(before) :].lstrip(), said.strip()
    return rest[len(said) :] if rest.startswith(said) else None


def eos_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a turn: the tokenizer's own and those of a generation configuration."""
    found: list[int] = []
    for value in (tokenizer.eos_token_id, getattr(generation_config, "eos_token_id", None)):
        found.extend([value] if isinstance(value, int) else value or [])
    if not found:
        raise ValueError("the tokenizer has no end-of-sequence token")
    return tuple(dict.fromkeys(found))
