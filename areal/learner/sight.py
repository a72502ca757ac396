"""The images of a row of sequences: their pixels, the places of their features, and 2D positions.

The vision tower is frozen, so the features of an image are the same for every version of the weights, and
features in an engine's cache remain valid.
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
    """The computed images in a row of N tokens, in the order of their placeholders.

    Attributes:
        values: ``[P, D]``, the patches of all images, on the host, because a batch has many.
        grids: ``[I, 3]``, number of patches of each image in time, height and width.
        places: ``[F]``, place in the row of each placeholder, ascending.
    """

    values: torch.Tensor
    grids: torch.Tensor
    places: torch.Tensor


def positions_of(length: int, images: Sequence[Image], sight: Sight) -> np.ndarray:
    """Return the positions of a sequence's tokens, int64 ``[3, L]``: time, height and width (M-RoPE).

    Text increases all three by one per token. The placeholders of an image start where the text before it
    ends, and add its rows and columns; the text after it continues from the largest (arXiv 2409.12191, 2.1).
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
    """Return the images of a row, once for a shared prompt; None: there are none.

    Args:
        sequences: the images of each sequence.
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
    """Return the inputs of the language model in ``trunk`` that replace ``tokens`` ``[1, N]``.

    The tokens of an image are identified by their places, because the policy may also sample a placeholder.
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
