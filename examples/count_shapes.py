"""An environment that draws its own pictures, and a small model with random weights that learns to read them.

python examples/count_shapes.py runs/seeing
areal train --env examples/count_shapes.py:CountShapes --model runs/seeing steps=100 \
    learner.learning_rate=1e-3 rollout.max_new_tokens=4 rollout.max_model_len=128
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from areal.envs.text import UnicodeText

CELL = 28
"""Pixels of a cell's side."""
COLORS = ((200, 30, 30), (30, 130, 40), (40, 60, 200))
QUESTION = "How many?"


class CountShapes(gymnasium.Env[dict[str, Any], str]):
    """Squares lie in the cells of a board: how many are they? 1 for the right number, else 0.

    Args:
        most: of them; there is at least one.
        side: cells of the board's side.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, most: int = 4, side: int = 2, render_mode: str | None = None) -> None:
        pixels = side * CELL
        self.observation_space = Dict(
            {"image": Box(0, 255, (pixels, pixels, 3), np.uint8), "text": UnicodeText(100)}
        )
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._most, self._side, self._number = most, side, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw a board."""
        super().reset(seed=seed)
        self._number = int(self.np_random.integers(1, self._most + 1))
        board = np.full((self._side * CELL, self._side * CELL, 3), 255, np.uint8)
        for cell in self.np_random.choice(self._side**2, self._number, replace=False):
            row, column = (int(place) * CELL + 4 for place in divmod(cell, self._side))
            color = COLORS[self.np_random.integers(len(COLORS))]
            board[row : row + CELL - 8, column : column + CELL - 8] = color
        return {"image": board, "text": QUESTION}, {}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Judge the answer, which is the number alone."""
        right = float(action.strip() == str(self._number))
        blank = np.full_like(self.observation_space["image"].high, 255)
        info = {"reward_parts": {"correct": right}, "expected": str(self._number)}
        return {"image": blank, "text": ""}, right, True, False, info

    def solution(self) -> str:
        """Return the right answer."""
        return str(self._number)


def write_model(folder: Path, most: int) -> None:
    """Write a small model that answers with any number: what the right one is, it has yet to learn."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from areal.model_check.small import make_small
    from areal.models import load_tokenizer
    from areal.models.sight import load_sight
    from areal.rollout.messages import normal
    from areal.rollout.rendering import Renderer

    with tempfile.TemporaryDirectory() as scratch:
        config = AutoConfig.for_model("qwen2_5_vl")
        config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
        config.save_pretrained(scratch)
        make_small(scratch, folder)
    tokenizer, sight = load_tokenizer(str(folder)), load_sight(str(folder))
    assert sight is not None
    renderer = Renderer(tokenizer, (tokenizer.eos_token_id,), sight=sight)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    env, rng = CountShapes(most), np.random.default_rng(0)
    for step in range(150):
        rows, pixels, grids = [], [], []
        for n in range(16):
            seen, _ = env.reset(seed=10**6 + 16 * step + n)
            parts = [{"type": "image", "image": seen["image"]}, {"type": "text", "text": seen["text"]}]
            prompt = renderer.opening([normal({"role": "user", "content": parts})])
            said = tokenizer.encode(str(rng.integers(1, most + 1)), add_special_tokens=False)
            rows.append([*prompt.ids, *said, tokenizer.eos_token_id])
            picture = sight.pixels(prompt.images[0].png)
            pixels.append(picture.values)
            grids.append(picture.grid)
        ids = torch.tensor(rows)  # all prompts are as long, and so are all answers
        labels = torch.where(torch.arange(ids.shape[1]) >= len(prompt.ids), ids, -100)
        loss = model(
            input_ids=ids,
            labels=labels,
            pixel_values=torch.from_numpy(np.concatenate(pixels)),
            image_grid_thw=torch.tensor(grids),
            mm_token_type_ids=(ids == sight.token).int(),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    print(f"{folder}: loss {loss.item():.2f}; {np.log(most) / 2:.2f} is that of any number, and an end")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="write a small model that has yet to learn to count")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=4, help="the largest number")
    chosen = parser.parse_args()
    write_model(chosen.folder, chosen.most)
