"""Creates programs with one small mistake."""

from __future__ import annotations

import ast
import random

_SWAPS: dict[type, type] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE},
    **{ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Mod: ast.Mult},
}


def mutate(source: str, rng: random.Random) -> str | None:
    """Return the source with one integer constant or operator changed, or None if it has none."""
    tree = ast.parse(source)
    places = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            places.append(lambda node=node: setattr(node, "value", node.value + 1))
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _SWAPS:
            places.append(lambda node=node: setattr(node, "op", _SWAPS[type(node.op)]()))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
            places.append(lambda node=node: node.ops.__setitem__(0, _SWAPS[type(node.ops[0])]()))
    if not places:
        return None
    rng.choice(places)()
    return ast.unparse(tree)
