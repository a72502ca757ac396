"""Formulas as trees of nested tuples.

``("number", Fraction)``, ``("symbol", name)`` and ``("constant", "pi" | "e" | "i")`` are leaves.
``(operator, *trees)`` has an operator of ``+ * / ^ neg degrees``; ``("call", function, *trees)`` applies one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

Tree: TypeAlias = tuple[Any, ...]


def symbols(tree: Tree) -> set[str]:
    """Return the names of a tree's symbols."""
    return {node[1] for node in _nodes(tree) if node[0] == "symbol"}


def mentions(tree: Tree, kind: str, name: str) -> bool:
    """Return whether a node of that kind and name is in the tree."""
    return any(node[0] == kind and node[1] == name for node in _nodes(tree))


def _nodes(tree: Tree) -> Iterator[Tree]:
    left = [tree]
    while left:
        node = left.pop()
        yield node
        left += [part for part in node[1:] if isinstance(part, tuple)]
