"""A short digest of weights, with which the learner and engines check that they have the same weights.

It is a checksum that is computed on the device of the weights, at the speed of memory. It detects weights
that were mixed up, truncated or omitted, but does not protect against deliberate deception.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

import torch

_PERIOD = 2**15
"""Number of 8-byte values after which the factors repeat; they fit into the caches of a CPU."""
_ROWS = 128
"""Number of periods that a GPU processes at once."""
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
    """Return odd numbers, one for each place of a period; the products overflow, which mixes the bits."""
    found = torch.arange(_PERIOD, device=device) * _SPREAD
    found ^= found >> 29
    return found * _MIX | 1
