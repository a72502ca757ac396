"""What engines get of an adapter: weights to the bit as the learner has them, and megabytes of an update."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from areal.config import LearnerConfig
from areal.factors import merged
from areal.learner.learner import Learner
from areal.learner.lora import base_tensors
from areal.models import resolve_model
from areal.weights.broadcast import BroadcastReceiver
from areal.weights.digest import digest
from areal.weights.layout import WeightLayout
from areal.weights.sender import open_sender

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no GPU with itself")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)
ADAPTED = LearnerConfig(lora_rank=2)


@pytest.mark.parametrize("kind", ["starter", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", ["auto", pytest.param("nf4", marks=needs_bitsandbytes)])
def test_engines_merge_to_the_bit_and_get_the_factors_alone(
    kind: str, dtype: torch.dtype, base: str, tmp_path: Path
):
    """With linear layers as they are, and with GPT-2's, whose weights lie the other way."""
    path = stored_in(torch.bfloat16, kind, tmp_path)
    options = {"lora_alpha": 3, "use_rslora": True}  # a scale that is no power of two
    settings = ADAPTED.model_copy(update={"base_precision": base, "lora_options": options})
    learner = Learner(path, settings, "cpu", 1.0)
    learner.move_base(None)
    sender = open_sender(["broadcast"], learner.sent_parameters(dtype), dtype, "cpu")
    learner.move_base(sender.tensors)
    [info] = sender.init_infos()
    layout = WeightLayout.from_dict(info["layout"])
    receiver = BroadcastReceiver(info["address"], layout, torch.device("cpu"))
    for version in range(3):
        move(learner, version)
        again = version > 0
        written = sender.write(learner.sent_parameters(dtype, again), whole=not again)
        received = threading.Thread(target=receiver.receive)
        received.start()
        sender.send()
        received.join()
        assert digest(receiver.tensors) == written
        found = dict(merged(receiver.tensors))
        whole = dict(learner.named_parameters())
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            assert torch.equal(found[name].to(dtype), tensor.to(dtype)), name
    held = {name: tensor.data_ptr() for name, tensor in base_tensors(learner.model)}
    shared = {name for name, tensor in sender.tensors.items() if held.get(name) == tensor.data_ptr()}
    if base == "nf4":
        assert {name for name in held if name.endswith(":nf4")} <= shared, "the base is held once"
    else:
        assert shared == (held.keys() if dtype == torch.float32 else set())
    assert sum(layout.sizes[layout.changing :]) < 0.5 * sum(layout.sizes), "a small model, a large rank"
    for end in (receiver, sender):
        end.close()


def test_weights_that_the_engine_s_type_does_not_hold_are_merged_by_the_learner(tmp_path: Path):
    learner = Learner(stored_in(torch.float32, "starter", tmp_path), ADAPTED, "cpu", 1.0)
    whole = [name for name, _ in learner.named_parameters()]
    assert [name for name, _ in learner.sent_parameters(torch.bfloat16, again=True)] == whole
    assert len(whole) < len(list(learner.sent_parameters(torch.float32)))


def stored_in(dtype: torch.dtype, kind: str, folder: Path) -> str:
    """Write a small model whose weights are of that type."""
    config = AutoConfig.from_pretrained(resolve_model("starter"))
    if kind == "gpt2":
        config = AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=2, vocab_size=config.vocab_size)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def move(learner: Learner, seed: int) -> None:
    """Change an adapter as a long training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in learner.model.named_parameters():
        if ".lora_" in name:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
