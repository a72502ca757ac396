"""Places a model's tensors in a few buckets of bytes, in the same way for the writer and the reader."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from areal.factors import is_factor, is_part

NamedParameters = Iterable[tuple[str, torch.Tensor]]
"""Pairs of a parameter's Hugging Face name and its unsharded value."""

BUCKET = 512 * 2**20
"""Bytes of one allocation on a GPU: large enough to need few, and small enough to find free space."""
ALIGN = 64
"""Alignment of each tensor in bytes, so that it can be viewed as any type and copied fast."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one tensor: its bucket, its first byte, and its type and shape."""

    bucket: int
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Number of bytes of the tensor, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightLayout:
    """Slots by name, in the order of the tensors, and the size in bytes of each bucket.

    Factors (areal.factors) come last, in their own buckets.

    Attributes:
        changing: the first bucket that changes from version to version; all later ones change as well.
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
        """Lay out tensors in their order.

        Args:
            parameters: their names, shapes and types.
            limit: bytes of a bucket; only a bucket with a single tensor may be larger.
            dtype: type of all tensors except factors (areal.factors); None: each keeps its type.
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
        """Return the tensors in ``buckets`` (uint8), which share their storage."""
        return [(name, _view(buckets, slot)) for name, slot in self.slots.items()]

    @torch.no_grad()
    def write(self, parameters: NamedParameters, buckets: Sequence[torch.Tensor], whole: bool = True) -> None:
        """Copy current values into ``buckets``, converted to the types of the layout.

        Args:
            parameters: names and values.
            buckets: the buckets of the layout.
            whole: whether all parameters are given; if not, and there are factors, only those are given.

        Raises:
            ValueError: the parameters do not match the layout.
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
        """Return plain values from which :meth:`from_dict` creates the same layout in another process."""
        return {
            name: [slot.bucket, slot.offset, str(slot.dtype).removeprefix("torch."), list(slot.shape)]
            for name, slot in self.slots.items()
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> WeightLayout:
        """Create a layout from the result of :meth:`to_dict`."""
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
