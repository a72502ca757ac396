"""Weights in 4 bits: NF4 with double quantization, as in QLoRA (arXiv 2305.14314), by bitsandbytes.

Such a weight is three tensors: the 4-bit values, two in a byte; an 8-bit scale for each block of 64 values;
and a float32 scale for each block of 256 scales, followed by the mean that was subtracted from the scales.
Together they take 0.516 bytes per value. Learner and engine dequantize the same tensors with the same code,
so that both have the same weight, in bfloat16.
"""

from __future__ import annotations

import importlib.util

import torch

from areal.errors import UserError, install_hint

PARTS = (":nf4", ":scales", ":scales2")
"""Suffixes of the names of the three tensors; the name of their weight precedes them."""
_BLOCK, _BLOCK2 = 64, 256


def require_bitsandbytes() -> None:
    """Check that bitsandbytes is installed; raises UserError if it is not."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"learner.base_precision=nf4 needs bitsandbytes: {install_hint('qlora')}")


@torch.no_grad()
def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the parts of a weight ``[rows, columns]``; the number of columns is even."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(
        weight.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    _code_of_scales(packed.device)  # fill the cache before a pass is compiled
    scales2 = torch.cat([state.state2.absmax, state.offset.view(1)])
    return packed.view(len(weight), -1), state.absmax, scales2


@torch.no_grad()
def dequantized(packed: torch.Tensor, scales: torch.Tensor, scales2: torch.Tensor) -> torch.Tensor:
    """Return the weight that the parts encode, ``[rows, columns]``, in bfloat16."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    of_scales = QuantState(
        absmax=scales2[:-1], code=_code_of_scales(scales.device), blocksize=_BLOCK2, dtype=torch.float32
    )
    state = QuantState(
        absmax=scales,
        shape=torch.Size((len(packed), 2 * packed.shape[1])),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=scales2[-1],
        state2=of_scales,
    )
    return dequantize_4bit(packed.view(-1, 1), state)


_CODES: dict[torch.device, torch.Tensor] = {}


def _code_of_scales(device: torch.device) -> torch.Tensor:
    """Return the value of each 8-bit code of a scale."""
    if device not in _CODES:
        from bitsandbytes.functional import create_dynamic_map

        _CODES[device] = create_dynamic_map().to(device)
    return _CODES[device]
