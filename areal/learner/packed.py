"""Sequences laid end to end in one row: only attention pads, and a shared prompt is in the row once.

The trajectories of a group have one prompt. Its hidden states are the same for all of them, so they are
computed once; each sequence's attention gathers its own tokens, shared ones included, from the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from areal.images import Image
from areal.learner.attention import Kernel, Layout, Padded, Varlen, to_device
from areal.learner.sight import Pictures, pictures_of, positions_of
from areal.models.sight import Sight
from areal.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Packed:
    """Some trajectories as the model and the objective need them: a row of N tokens, K of them sampled.

    Attributes:
        tokens: ``[N]``.
        positions: ``[N]``, of each token in its own sequence, or ``[3, N]`` where there are pictures.
        layout: which of them make up each sequence, as attention takes it.
        before: ``[K]``, place of the token that each sampled token follows: its logits predict it.
        targets: ``[K]``, the sampled tokens.
        behav: ``[K]``, their log-probabilities as sampled.
        versions: ``[K]``, the versions of the weights that sampled them.
        owner: ``[K]``, which of the sequences each sampled token belongs to.
        pairs: how many pairs of a computed token with one that it sees, itself included.
        pictures: among the tokens; None: there are none.
        experts: int16 ``[N, layers, k]``, those that the engine sent each token to, -1 where it is not known;
            None: of no token.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    layout: Layout
    before: torch.Tensor
    targets: torch.Tensor
    behav: torch.Tensor
    versions: torch.Tensor
    owner: torch.Tensor
    pairs: int
    pictures: Pictures | None = None
    experts: torch.Tensor | None = None


def pack(
    trajectories: Sequence[Trajectory],
    device: torch.device,
    kernel: Kernel | None = None,
    sight: Sight | None = None,
) -> Packed:
    """Lay trajectories end to end, each prompt once.

    Args:
        trajectories: at least one.
        kernel: of attention; None: PyTorch's plain one, padded.
        sight: what the model makes of pictures; None: it sees nothing.

    Raises:
        ValueError: a trajectory begins with a sampled token, which nothing predicts, or has pictures that the
            model does not see.
    """
    index, owned = _places(trajectories)
    lengths = np.array([len(t) for t in trajectories])
    real = np.arange(index.shape[1]) < lengths[:, None]
    tokens = np.zeros_like(index)
    sampled = np.zeros_like(owned)
    tokens[real] = np.concatenate([t.tokens for t in trajectories])
    sampled[real] = np.concatenate([t.loss_mask for t in trajectories])
    owner, step = np.nonzero(sampled)
    positions = np.nonzero(owned)[1]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return to_device(array, device)

    experts = _experts(trajectories, index, owned)
    layout: Layout
    if kernel is None:
        layout = Padded.build(index, owned, lengths, device)
    else:
        layout = Varlen.build(index, owned, lengths, device, kernel.attend)
    seen = [t.images for t in trajectories]
    pictures, places = None, positions
    if any(seen):
        if sight is None:
            raise ValueError("a trajectory contains pictures, and the model cannot see them")
        pictures = pictures_of(seen, index, owned, sight, device)
        whole = [positions_of(len(t), t.images, sight) for t in trajectories]
        places = np.concatenate([each[:, owned[i, : each.shape[1]]] for i, each in enumerate(whole)], axis=1)
    return Packed(
        tokens=tensor(tokens[owned]),
        positions=tensor(places),
        layout=layout,
        before=tensor(index[owner, step - 1]),
        targets=tensor(tokens[owner, step]),
        behav=tensor(np.concatenate([t.logprobs[t.loss_mask] for t in trajectories])),
        versions=tensor(np.concatenate([t.versions[t.loss_mask] for t in trajectories])),
        owner=tensor(owner),
        pairs=int(positions.sum()) + len(positions),
        pictures=pictures,
        experts=None if experts is None else tensor(experts),
    )


def _experts(trajectories: Sequence[Trajectory], index: np.ndarray, owned: np.ndarray) -> np.ndarray | None:
    """Return ``experts`` of :class:`Packed`: those of a shared prompt are those of its owner."""
    known = [t.experts for t in trajectories if t.experts is not None]
    if not known:
        return None
    found = np.full((owned.sum(), *known[0].shape[1:]), -1, np.int16)
    for i, trajectory in enumerate(trajectories):
        if trajectory.experts is not None:
            (steps,) = np.nonzero(owned[i, : len(trajectory.experts)])
            found[index[i, steps]] = trajectory.experts[steps]
    return found


def _places(trajectories: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``index`` and ``owned`` of :class:`Padded`: the first sequence with a prompt owns its tokens."""
    longest = max(len(t) for t in trajectories)
    index = np.zeros((len(trajectories), longest), dtype=np.int64)
    owned = np.zeros((len(trajectories), longest), dtype=bool)
    prompts: dict[tuple[bytes, tuple[Image, ...]], int] = {}
    end = 0
    for i, trajectory in enumerate(trajectories):
        prompt = int(trajectory.loss_mask.argmax())
        if prompt == 0:
            raise ValueError(
                "the first token of a sequence cannot be a sampled one, because nothing predicts it"
            )
        # The same tokens are another prompt where their placeholders stand for another picture.
        images = tuple(image for image in trajectory.images if image.start < prompt)
        first = prompts.setdefault((trajectory.tokens[:prompt].tobytes(), images), end)
        shared = prompt if first < end else 0
        index[i, :shared] = np.arange(first, first + shared)
        rest = len(trajectory) - shared
        index[i, shared : len(trajectory)] = np.arange(end, end + rest)
        owned[i, shared : len(trajectory)] = True
        end += rest
    return index, owned
