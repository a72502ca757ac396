"""Mixed precision: what computes is rounded, what is held, read, saved and moved is float32."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import pytest
import torch
from dummy_batches import batch

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.learner.packed import pack
from areal.learner.trainable import TrainableModule
from areal.models import resolve_model

CPU = torch.device("cpu")


class Product(torch.nn.Module):
    """One weight times an input, in the shape of a Hugging Face model without layers."""

    _no_split_modules = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1 / 3]]))
        self.computed_in: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.computed_in.append(self.weight.dtype)
        return self.weight * x.to(self.weight.dtype)


def product(**settings: object) -> tuple[Product, TrainableModule]:
    module = Product()
    return module, TrainableModule(module, LearnerConfig(dtype="bfloat16", **settings), CPU)


def test_gradients_of_bfloat16_passes_are_summed_in_float32():
    """A sum in bfloat16 would lose every pass after the 256th of like size."""
    module, trainable = product()
    for _ in range(1000):
        trainable.accumulate(torch.sum, torch.ones(1, 1))
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
    assert module.weight.grad.item() == 1000
    assert set(module.computed_in) == {torch.bfloat16}
    trainable.zero_grad()
    assert module.weight.grad is None


def test_steps_smaller_than_a_rounding_add_up():
    """One of them is lost on a bfloat16 weight, which has neighbors 0.002 apart here."""
    module, trainable = product()
    for _ in range(100):
        trainable.accumulate(torch.sum, torch.ones(1, 1))
        trainable.step(1e-4, version=0)
    assert module.weight.item() == pytest.approx(1 / 3 - 100 * 1e-4, abs=1e-5)


@pytest.mark.parametrize("fails_in", ["forward", "loss", "backward"])
def test_a_pass_that_fails_leaves_float32_weights_and_the_gradients_before_it(fails_in: str):
    module, trainable = product()
    trainable.accumulate(torch.sum, torch.ones(1, 1))
    before = module.weight.detach().clone()

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        if fails_in == "loss":
            raise RuntimeError("in the middle of a pass")
        return outputs.detach().sum()  # of which there is no backward pass

    inputs = torch.ones(1, 1) if fails_in != "forward" else None
    with pytest.raises((RuntimeError, AttributeError)):
        trainable.accumulate(loss, inputs)
    assert torch.equal(module.weight, before)
    assert module.weight.dtype == torch.float32
    assert module.weight.grad is not None
    assert module.weight.grad.item() == 1


def test_a_weight_written_to_from_outside_is_what_the_next_pass_computes_with():
    module, trainable = product()
    assert trainable(torch.ones(1, 1)).item() == pytest.approx(1 / 3, rel=1e-2)
    with torch.no_grad():
        module.weight.fill_(2)
    assert trainable(torch.ones(1, 1)).item() == 2


def test_outputs_without_gradients_cannot_be_trained_on_by_mistake():
    _, trainable = product()
    assert not trainable(torch.ones(1, 1)).requires_grad
    outputs = trainable.accumulate(torch.sum, torch.ones(1, 1))
    trainable.accumulate(torch.sum, torch.ones(1, 1))
    with pytest.raises(RuntimeError):  # its pass is over, and so are the weights that it was computed with
        (outputs * outputs).sum().backward()


def read(learner: Learner) -> dict[str, torch.Tensor]:
    """All that can be read of a learner: weights in three ways, gradients, and the optimizer's state."""
    found = {f"named.{name}": tensor for name, tensor in learner.named_parameters()}
    for name, parameter in learner.model.named_parameters():
        found[f"model.{name}"] = parameter
        if parameter.grad is not None:
            found[f"gradient.{name}"] = parameter.grad
    found |= {n: t for n, t in learner.state().items() if n.startswith(("weights.", "optimizer.", "critic."))}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def score(learner: Learner) -> None:
    learner.policy(pack(batch(0).trajectories, CPU), 1.0)


def accumulate(learner: Learner) -> None:
    packed = pack(batch(0).trajectories, CPU)
    learner.policy.accumulate(attrgetter("loss"), packed, 1.0, lambda logprobs, entropy, part: logprobs)


def reload(learner: Learner) -> None:
    learner.load_state({name: tensor.clone() for name, tensor in learner.state(whole=True).items()})


@pytest.mark.parametrize("objective", ["decoupled-ppo", "ppo"])
def test_whatever_was_done_before_only_float32_is_read(objective: str):
    """No order of calls shows a rounded weight: there is none between passes."""
    settings = LearnerConfig(objective=objective, dtype="bfloat16", warmup_steps=0)
    learner = Learner(resolve_model("starter"), settings, "cpu", 1.0, 1)
    start = read(learner)
    steps: list[Callable[[Learner], object]] = [score, accumulate, score]
    for step in steps:
        step(learner)
        found = read(learner)
        assert all(torch.equal(found[name], tensor) for name, tensor in start.items()), step
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    learner.policy.zero_grad()
    for seed in range(2):
        learner.update(batch(seed))
        moved = read(learner)
        assert {tensor.dtype for tensor in moved.values()} == {torch.float32}
        rounded = [torch.equal(t, t.bfloat16().float()) for n, t in moved.items() if n.startswith("model.")]
        assert not all(rounded), "float32 weights hold more than bfloat16 can"
        for step in (score, reload, score):
            step(learner)
            found = read(learner)
            assert found.keys() == moved.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in moved.items()), step
