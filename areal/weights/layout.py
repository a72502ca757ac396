"""How a model's tensors lie end to end in a few buckets of bytes, the same for the writer and the reader."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from areal.factors import is_factor, is_part

NamedParameters = Iterable[tuple[str, torch.Tensor]]
"""Pairs of a parameter's Hugging Face name and its whole value."""

BUCKET = 512 * 2**20
"""Bytes of one allocation on a GPU: large enough for few, and small enough to find room among others."""
ALIGN = 64
"""Bytes to whose multiple each tensor is aligned, so that it can be viewed as any type and copied fast."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies: in which bucket, from which byte on, and what it is."""

    bucket: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightLayout:
    """Slots by name, in the order of the tensors, and the size in bytes of each bucket.

    Factors (areal.factors) come last, in buckets of their own.

    Attributes:
        changing: the first bucket that changes from version to version, as all behind it do.
    """

    def __init__(self, slots: dict[str, Slot]) -> None:
        self.slots = slots
        self.factors = frozenset(filter(is_factor, slots))
        self.changing = min((slots[name].bucket for name in self.factors), default=0)
        self.sizes = [0] * (1 + max((slot.bucket for slot in slots.values()), default=-1))
        for slot in slots.values():
            self.sizes[slot.bucket] = max(self.sizes[slot.bucket], slot.offset + _padded(slot.nbytes))

    @classmethod
    def of(
        cls, parameters: NamedParameters, limit: float = math.inf, dtype: torch.dtype | None = None
    ) -> WeightLayout:
        """Lay tensors out in their order.

        Args:
            parameters: their names, shapes and types.
            limit: bytes of a bucket; only one that holds a single tensor may be larger.
            dtype: type of all of them but what is no weight by itself (areal.factors); None: each as it is.
        """
        slots: dict[str, Slot] = {}
        bucket = offset = 0
        base = True
        for name, tensor in parameters:
            factor = is_factor(name)
            kept = tensor.dtype if dtype is None or is_part(name) else dtype
            slot = Slot(bucket, offset, kept, tuple(tensor.shape))
            full = offset + _padded(slot.nbytes) > limit
            if offset and (full or (factor and base)):
                bucket, offset = bucket + 1, 0
                slot = Slot(bucket, offset, slot.dtype, slot.shape)
            slots[name] = slot
            offset += _padded(slot.nbytes)
            base = not factor
        return cls(slots)

    def views(self, buckets: Sequence[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors that lie in ``buckets`` (uint8), sharing their storage."""
        return [(name, _view(buckets, slot)) for name, slot in self.slots.items()]

    @torch.no_grad()
    def write(self, parameters: NamedParameters, buckets: Sequence[torch.Tensor], whole: bool = True) -> None:
        """Copy current values into ``buckets``, converting them to the types laid out.

        Args:
            parameters: names and values.
            buckets: where they lie.
            whole: whether all have to be given; else, where there are factors, those alone.

        Raises:
            ValueError: the parameters are not the ones that were laid out.
        """
        missing = set(self.slots if whole or not self.factors else self.factors)
        for name, tensor in parameters:
            slot = self.slots.get(name)
            if slot is None or tuple(tensor.shape) != slot.shape:
                known = "unknown" if slot is None else str(slot.shape)
                raise ValueError(f"{name} changed from {known} to {tuple(tensor.shape)}")
            _view(buckets, slot).copy_(tensor)
            missing.discard(name)
        if missing:
            raise ValueError(f"no value for {sorted(missing)}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values from which :meth:`from_dict` makes the same layout in another process."""
        return {
            name: [slot.bucket, slot.offset, str(slot.dtype).removeprefix("torch."), list(slot.shape)]
            for name, slot in self.slots.items()
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> WeightLayout:
        """Make a layout of what :meth:`to_dict` returned."""
        return cls(
            {
                name: Slot(bucket, offset, getattr(torch, dtype), tuple(shape))
                for name, (bucket, offset, dtype, shape) in found.items()
            }
        )


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _view(buckets: Sequence[torch.Tensor], slot: Slot) -> torch.Tensor:
    bytes_ = buckets[slot.bucket][slot.offset : slot.offset + slot.nbytes]
    return bytes_.view(slot.dtype).view(slot.shape)
