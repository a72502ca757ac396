"""A short digest of weights, by which the learner and engines tell whether they have the same.

It is a checksum, made where the weights are, at the speed of memory: it finds what was mixed up, cut short or
left out, and is no protection against anybody who wants to deceive.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

import torch

_PERIOD = 2**15
"""Numbers of 8 bytes after which factors repeat: few enough for the caches of a CPU."""
_ROWS = 128
"""Periods that a GPU takes at once."""
_SPREAD, _MIX = -7046029254386353131, 0x2545F4914F6CDD1D


@torch.no_grad()
def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return 16 hexadecimal digits that depend on names, order, and each byte of contiguous tensors."""
    found, sums = blake2b(digest_size=8), list[torch.Tensor]()
    for name, tensor in tensors:
        found.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)};".encode())
        flat, factors = tensor.reshape(-1).view(torch.uint8), _factors(tensor.device)
        end = len(flat) // 8 * 8
        numbers, last = flat[:end].view(torch.int64), flat[end:].long()
        end = len(numbers) // _PERIOD * _PERIOD
        rows = _ROWS if tensor.is_cuda else 1
        sums += [(part * factors).sum(1) for part in numbers[:end].view(-1, _PERIOD).split(rows) if len(part)]
        sums += [(part * factors[: len(part)]).sum(0, True) for part in (numbers[end:], last) if len(part)]
    found.update(str(torch.cat(sums).tolist() if sums else "").encode())
    return found.hexdigest()


@cache
def _factors(device: torch.device) -> torch.Tensor:
    """Return odd numbers, one for each place of a period: products overflow, which is what mixes them."""
    found = torch.arange(_PERIOD, device=device) * _SPREAD
    found ^= found >> 29
    return found * _MIX | 1
