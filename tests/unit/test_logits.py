"""Log-probabilities and entropies made in chunks, against the plain formula in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from areal.learner import logits
from areal.learner.logits import logprobs_and_entropy


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@given(
    rows=st.integers(1, 12),
    columns=st.integers(2, 40),
    at_once=st.integers(1, 200),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    entropy=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunks_change_neither_values_nor_gradients(
    rows: int, columns: int, at_once: int, temperature: float, entropy: bool, seed: int
):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    hidden, weight = 3 * normal(rows, 5), normal(columns, 5)
    targets = torch.randint(columns, (rows,), generator=draw)
    g_logprob, g_entropy = normal(rows), normal(rows) * entropy
    ours = [hidden.float().requires_grad_(), weight.float().requires_grad_()]
    theirs = [hidden.requires_grad_(), weight.requires_grad_()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits, "LOGITS_AT_ONCE", at_once)
        found = logprobs_and_entropy(*ours, targets, temperature, entropy_gradient=entropy)
        loss = (found[0] * g_logprob).sum() + (found[1] * g_entropy).sum()
        loss.backward()
    expected = plain(*theirs, targets, temperature)
    ((expected[0] * g_logprob).sum() + (expected[1] * g_entropy).sum()).backward()
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.double(), right, atol=1e-5, rtol=1e-5)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad.double(), right.grad, atol=1e-4, rtol=1e-4)


def test_the_entropy_has_a_gradient_only_if_it_is_asked_for():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4)
    targets = torch.tensor([0, 1, 2])
    assert not logprobs_and_entropy(hidden, weight, targets, 1.0)[1].requires_grad
    assert logprobs_and_entropy(hidden, weight, targets, 1.0, entropy_gradient=True)[1].requires_grad


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
    logprobs, entropy = logprobs_and_entropy(hidden, torch.eye(2), torch.tensor([1, 0]), 1.0, True)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs[0] == -2e4
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(hidden.grad).all()


def test_products_of_16_bits_are_kept_in_32():
    """A logit of 20 has neighbours 0.125 apart in bfloat16: ratios would be off by as much."""
    hidden = torch.tensor([[20.0, 0.0625]], dtype=torch.bfloat16)
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.bfloat16)
    logprobs, _ = logprobs_and_entropy(hidden, weight, torch.tensor([0]), 1.0)
    expected = torch.log_softmax(torch.tensor([20.0625, 20.0], dtype=torch.float64), 0)[0]
    assert abs(float(logprobs[0]) - float(expected)) < 1e-6
