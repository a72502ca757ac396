"""Formulas as trees of nested tuples.

``("number", Fraction)``, ``("symbol", name)`` and ``("constant", "pi" | "e" | "i")`` are leaves.
``(operator, *trees)`` has an operator of ``+ * / ^ neg degrees``; ``("call", function, *trees)`` applies one.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Tree: TypeAlias = tuple[Any, ...]


def symbols(tree: Tree) -> set[str]:
    """Return the names of a tree's symbols."""
    found: set[str] = set()
    left = [tree]
    while left:
        node = left.pop()
        if node[0] == "symbol":
            found.add(node[1])
        else:
            left += [part for part in node[1:] if isinstance(part, tuple)]
    return found


def mentions(tree: Tree, kind: str, name: str) -> bool:
    """Say whether a node of that kind and name is in the tree."""
    left = [tree]
    while left:
        node = left.pop()
        if node[0] == kind and node[1] == name:
            return True
        left += [part for part in node[1:] if isinstance(part, tuple)]
    return False
