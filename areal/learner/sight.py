"""The pictures of a row of sequences: their pixels, where their features go, and positions in two dimensions.

The vision tower is frozen: features of a picture are the same for every version of the weights, so that what
an engine keeps of them stays true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from areal.images import Image
from areal.learner.attention import to_device
from areal.models.sight import Pixels, Sight


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures that are computed in a row of N tokens, in the order of their placeholders.

    Attributes:
        values: ``[P, D]``, the patches of all of them, on the host: a batch has many.
        grids: ``[I, 3]``, patches of each in time, height and width.
        places: ``[F]``, place in the row of each of their placeholders, ascending.
    """

    values: torch.Tensor
    grids: torch.Tensor
    places: torch.Tensor


def positions_of(length: int, images: Sequence[Image], sight: Sight) -> np.ndarray:
    """Return the positions of a sequence's tokens, int64 ``[3, L]``: time, height and width (M-RoPE).

    Text counts on by one in all three. The placeholders of a picture begin where the text before it ends, and
    count its rows and columns besides; the text behind goes on from the largest (arXiv 2409.12191, 2.1).
    """
    parts, end, begun = [], 0, 0
    for image in images:
        text = image.start - end
        parts.append(np.broadcast_to(np.arange(begun, begun + text), (3, text)))
        begun += text
        frames, height, width = sight.grid(image.png)
        grid = np.indices((frames, height // sight.merge, width // sight.merge)).reshape(3, -1)
        parts.append(grid + begun)
        begun += int(grid.max()) + 1
        end = image.start + image.tokens
    text = length - end
    parts.append(np.broadcast_to(np.arange(begun, begun + text), (3, text)))
    return np.concatenate(parts, axis=1)


def pictures_of(
    sequences: Sequence[Sequence[Image]],
    index: np.ndarray,
    owned: np.ndarray,
    sight: Sight,
    device: torch.device,
) -> Pictures | None:
    """Return the pictures of a row, each once where a prompt is shared; None: there are none.

    Args:
        sequences: the images of each.
        index: and ``owned``, as in :class:`areal.learner.attention.Padded`.
    """
    found: list[Pixels] = []
    places: list[np.ndarray] = []
    for row, images in enumerate(sequences):
        for image in images:
            if owned[row, image.start]:
                found.append(sight.pixels(image.png))
                places.append(index[row, image.start : image.start + image.tokens])
    if not found:
        return None
    return Pictures(
        torch.from_numpy(np.concatenate([pixels.values for pixels in found])),
        to_device(np.array([pixels.grid for pixels in found], dtype=np.int64), device),
        to_device(np.concatenate(places), device),
    )


def embedded(trunk: Any, tokens: torch.Tensor, pictures: Pictures) -> dict[str, Any]:
    """Return what the language model in ``trunk`` takes in the place of ``tokens`` ``[1, N]``.

    Which tokens are a picture's is known by their places: a placeholder that the policy sampled is none.
    """
    with torch.no_grad():
        seen = trunk.get_image_features(pictures.values.to(tokens.device), pictures.grids)
    embeddings = trunk.get_input_embeddings()(tokens)
    features = torch.cat(list(seen.pooler_output)).to(embeddings.dtype)
    found: dict[str, Any] = {"inputs_embeds": embeddings.index_copy(1, pictures.places, features[None])}
    if (deep := getattr(seen, "deepstack_features", None)) is not None:  # Qwen3-VL adds some in each layer
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[0, pictures.places] = True
        found |= {"visual_pos_masks": mask, "deepstack_visual_embeds": [torch.cat(list(d)) for d in deep]}
    return found
