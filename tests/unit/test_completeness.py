"""What a load lacks is found: tensors that nothing took from, and it is said in one line."""

from __future__ import annotations

import torch

from areal.weights.completeness import Reads, complaint


def test_a_tensor_is_read_as_it_is_or_through_views_only_by_what_computes():
    memory = torch.arange(64.0)
    sent = [(str(i), memory[8 * i : 8 * i + 8]) for i in range(8)]
    into = torch.zeros(4, 8)
    with Reads(sent) as reads:
        into[0].copy_(sent[0][1])
        into[1, :4].copy_(sent[1][1].view(2, 4).t().reshape(-1)[:4])
        into[2] = sent[2][1].narrow(0, 3, 1)
        sent[3][1].view(2, 4).t()[1:].detach()  # looked at, and let go
        into[3].copy_(torch.stack([sent[4][1], sent[5][1]]).amax(0))
        torch.empty(8, device="meta").copy_(sent[6][1])
    assert reads.unread == {"3", "7"}


def test_a_complaint_is_one_line_with_a_few_names():
    assert complaint([], [], []) == ""
    names = [f"layers.{i}.weight" for i in range(9)]
    message = complaint(names, ["head"], [])
    assert "layers.0.weight, layers.1.weight, layers.2.weight, layers.3.weight and 5 more" in message
    assert "the engine receives nothing for its head" in message
    assert "all of" not in message
    assert "\n" not in message
    assert "does not receive all of its qkv_proj" in complaint([], [], {"qkv_proj"})
