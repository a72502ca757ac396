"""Log-probabilities and entropies made in chunks, against the plain formula in float64."""

from __future__ import annotations

import functools

import torch
from hypothesis import given
from hypothesis import strategies as st

from areal.learner.logits import scores


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = torch.log_softmax(hidden @ weight.t() / temperature, -1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@given(
    rows=st.integers(1, 12),
    columns=st.integers(2, 40) | st.sampled_from([128, 256, 384, 1024, 1536]),
    at_once=st.integers(1, 200) | st.just(5000),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    entropy=st.booleans(),
    separable=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chunks_change_neither_values_nor_gradients(
    rows: int, columns: int, at_once: int, temperature: float, entropy: bool, separable: bool, seed: int
):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    hidden, weight = 3 * normal(rows, 5), normal(columns, 5)
    targets = torch.randint(columns, (rows,), generator=draw)
    factors = normal(rows), normal(rows)

    def loss(logprobs: torch.Tensor, entropies: torch.Tensor, part: slice) -> torch.Tensor:
        """Curved, so that its gradient depends on the values; and, if it may, on those of other tokens."""
        found = factors[0][part] * logprobs * (logprobs if separable else logprobs.mean())
        return found + factors[1][part] * entropies if entropy else found

    ours = [hidden.float().requires_grad_(), weight.float().requires_grad_()]
    theirs = [hidden.requires_grad_(), weight.requires_grad_()]
    found = scores(*ours, targets, temperature, loss, separable, at_once=at_once)
    (3 * found.loss).backward()
    again = scores(*ours, targets, temperature, at_once=at_once)
    expected = plain(*theirs, targets, temperature)
    of_tokens = loss(*expected, slice(0, rows))
    (3 * of_tokens.sum()).backward()
    # Squares of both signs may all but cancel out: what is rounded is each of them.
    assert (found.loss - of_tokens.sum()).abs() < 1e-5 * (1 + of_tokens.abs().sum())
    for left, other, right in zip(found[:2], again[:2], expected, strict=True):
        torch.testing.assert_close(left.double(), right, atol=1e-5, rtol=1e-5)
        assert torch.equal(left, other)
    for left, right in zip(ours, theirs, strict=True):
        assert (left.grad - right.grad).abs().max() < 1e-4 * (1 + right.grad.abs().max())


def test_chunks_are_compiled_for_once():
    """However many rows they have, wherever they begin: a compilation in the middle of a run stops it."""
    eager = functools.partial(torch.compile, backend="eager")
    torch._dynamo.reset()
    counts, compiled = torch._dynamo.utils.counters["stats"], []
    weight = torch.randn(16, 4, requires_grad=True)
    for rows in (6, 8, 20, 100):
        hidden, targets = torch.randn(rows, 4), torch.arange(rows) % 16
        for separable in (True, False):
            found = scores(
                hidden, weight, targets, 1.0, lambda own, *_: own.square(), separable, None, 7 * 16, eager
            )
            assert torch.allclose(found.logprobs, plain(hidden, weight, targets, 1.0)[0], atol=1e-5)
        compiled.append(counts["unique_graphs"])
    assert compiled[0] > 0
    assert compiled == compiled[:1] * 4


def test_only_what_is_trained_gets_a_gradient():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4)
    targets = torch.tensor([0, 1, 2])
    found = scores(hidden, weight, targets, 1.0, lambda logprobs, entropy, part: logprobs)
    found.loss.backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert not found.logprobs.requires_grad
    assert not found.entropy.requires_grad
    assert scores(hidden, weight, targets, 1.0).loss is None


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, -1e4], [0.0, 0.0]], requires_grad=True)
    found = scores(hidden, torch.eye(2), torch.tensor([1, 0]), 1.0, lambda own, entropy, part: own + entropy)
    found.loss.backward()
    assert found.logprobs[0] == -2e4
    assert torch.isfinite(found.entropy).all()
    assert torch.isfinite(hidden.grad).all()


def test_products_of_16_bits_are_kept_in_32():
    """A logit of 20 has neighbors 0.125 apart in bfloat16: ratios would be off by as much."""
    hidden = torch.tensor([[20.0, 0.0625]], dtype=torch.bfloat16)
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.bfloat16)
    logprobs = scores(hidden, weight, torch.tensor([0]), 1.0).logprobs
    expected = torch.log_softmax(torch.tensor([20.0625, 20.0], dtype=torch.float64), 0)[0]
    assert abs(float(logprobs[0]) - float(expected)) < 1e-6
