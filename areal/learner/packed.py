"""Packs sequences into one row: only attention pads, and the row contains a shared prompt once.

The trajectories of a group have the same prompt. Its hidden states are the same for all of them, so they are
computed once; each sequence's attention gathers its own tokens, including shared ones, from the row.
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
    """Trajectories as the model and the objective need them: a row of N tokens, K of them sampled.

    Attributes:
        tokens: ``[N]``.
        positions: ``[N]``, position of each token in its own sequence, or ``[3, N]`` if there are images.
        layout: the tokens of each sequence, in the form that attention takes.
        before: ``[K]``, place of the token before each sampled token, whose logits predict it.
        targets: ``[K]``, the sampled tokens.
        behav: ``[K]``, their log-probabilities at sampling.
        versions: ``[K]``, the versions of the weights that sampled them.
        owner: ``[K]``, the sequence of each sampled token.
        pairs: number of pairs of a computed token with a token that it sees, including itself.
        pictures: the images among the tokens; None: there are none.
        experts: int16 ``[N, layers, k]``, the experts that the engine chose for each token, -1 where unknown;
            None: all unknown.
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
    """Pack trajectories into one row, each prompt once.

    Args:
        trajectories: the trajectories, at least one.
        kernel: attention kernel; None: PyTorch's plain attention, padded.
        sight: how the model processes images; None: the model has no vision.

    Raises:
        ValueError: a trajectory begins with a sampled token, which nothing predicts, or has images but the
            model has no vision.
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
            raise ValueError("a trajectory contains images, but the model cannot see them")
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
    """Return ``experts`` of :class:`Packed`; a shared prompt has those of its owner."""
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
        # Equal tokens are different prompts if their placeholders represent different images.
        images = tuple(image for image in trajectory.images if image.start < prompt)
        first = prompts.setdefault((trajectory.tokens[:prompt].tobytes(), images), end)
        shared = prompt if first < end else 0
        index[i, :shared] = np.arange(first, first + shared)
        rest = len(trajectory) - shared
        index[i, shared : len(trajectory)] = np.arange(end, end + rest)
        owned[i, shared : len(trajectory)] = True
        end += rest
    return index, owned
