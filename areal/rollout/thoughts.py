"""What a response thinks before it speaks, where its chat template marks that."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def marks_thoughts(template: str | None) -> bool:
    """Whether a chat template knows the marks, so that they are no words of the model's."""
    return template is not None and CLOSE in template


def thought_length(content: str, prompt: str) -> int:
    """Return how many characters of a response are its thought, marks included; 0: it did not think.

    Args:
        prompt: what it responds to; a template may have begun the thought there.
    """
    if not content.lstrip().startswith(OPEN) and not prompt.rstrip().endswith(OPEN):
        return 0
    end = content.find(CLOSE)
    return len(content) if end < 0 else end + len(CLOSE)


def split_thought(content: str, length: int) -> tuple[str, str]:
    """Return a response's thought, without its marks, and its words."""
    thought = content[:length].strip().removeprefix(OPEN).removesuffix(CLOSE).strip("\n")
    return thought, content[length:].lstrip("\n") if length else content
