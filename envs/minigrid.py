"""Describes in words what a player of MiniGrid and BabyAI sees."""

from __future__ import annotations

from typing import Any

_DIRECTIONS = ("east", "south", "west", "north")


def describe(observation: dict[str, Any], env: Any = None) -> str:
    """Describe the surroundings of the player: objects, by steps from the player, and the walls ahead and to
    the sides.

    Use it in ``gym-text-v1`` as ``describe=areal.envs.minigrid:describe``.

    Args:
        observation: ``image`` (columns, rows, 3), seen from the middle of its last row,
            ``direction`` and ``mission``.
        env: not used, because the description contains only what the player sees.
    """
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX

    states = {number: state for state, number in STATE_TO_IDX.items()}
    image = observation["image"]
    middle, last = image.shape[0] // 2, image.shape[1] - 1

    def called(column: int, row: int) -> str:
        kind, color, state = (int(number) for number in image[column, row])
        door = f"{states[state]} " if IDX_TO_OBJECT[kind] == "door" else ""
        name = f"{door}{IDX_TO_COLOR[color]} {IDX_TO_OBJECT[kind]}"
        return f"an {name}" if name[0] in "aeiou" else f"a {name}"

    def empty(column: int, row: int) -> bool:
        return IDX_TO_OBJECT[int(image[column, row, 0])] in ("unseen", "empty", "floor", "wall")

    def wall(cells: list[tuple[int, int]]) -> int | None:
        kinds = [IDX_TO_OBJECT[int(image[cell][0])] for cell in cells]
        return kinds.index("wall") + 1 if "wall" in kinds else None

    seen = [
        (last - row, column - middle, called(column, row))
        for column in range(image.shape[0])
        for row in range(image.shape[1])
        if (column, row) != (middle, last) and not empty(column, row)
    ]
    straight = {
        "ahead": wall([(middle, row) for row in range(last - 1, -1, -1)]),
        "to the left": wall([(column, last) for column in range(middle - 1, -1, -1)]),
        "to the right": wall([(column, last) for column in range(middle + 1, image.shape[0])]),
    }
    carried = "nothing" if empty(middle, last) else called(middle, last)
    things = [f"{name} {_place(ahead, right)}" for ahead, right, name in sorted(seen, key=_far)]
    things += [f"a wall {steps} {where}" for where, steps in straight.items() if steps is not None]
    return (
        f"Mission: {observation['mission']}.\n"
        f"You face {_DIRECTIONS[int(observation['direction'])]} and carry {carried}.\n"
        f"You see, in steps: {'; '.join(things) or 'nothing'}."
    )


def _far(thing: tuple[int, int, str]) -> tuple[int, tuple[int, int, str]]:
    return thing[0] + abs(thing[1]), thing


def _place(ahead: int, right: int) -> str:
    side = f"{abs(right)} to the {'right' if right > 0 else 'left'}" if right else ""
    return " and ".join(filter(None, (f"{ahead} ahead" if ahead else "", side)))
