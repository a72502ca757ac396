"""Buckets of tensors: nothing overlaps, nothing is lost, and the other process sees the same."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.errors import UserError
from areal.weights.cuda_ipc import _refuse_expandable_segments
from areal.weights.layout import ALIGN, WeightLayout
from areal.weights.shared_memory import SharedMemoryReceiver, SharedMemorySender

shapes = st.lists(st.integers(0, 9), max_size=3)
models = st.lists(
    st.tuples(shapes, st.sampled_from([torch.float32, torch.bfloat16])), min_size=1, max_size=12
)
limits = st.sampled_from([1, 64, 200, 1000, math.inf])
dtypes = st.sampled_from([None, torch.bfloat16, torch.float32])


def tensors(model: list[tuple[list[int], torch.dtype]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"layer.{i}": torch.randn(shape).to(dtype) for i, (shape, dtype) in enumerate(model)}


@settings(deadline=None)
@given(models, limits, dtypes)
def test_what_is_written_is_what_the_other_process_reads(model, limit, dtype):
    parameters = tensors(model)
    layout = WeightLayout.of(parameters.items(), limit, dtype)
    buckets = [torch.zeros(size, dtype=torch.uint8) for size in layout.sizes]
    layout.write(parameters.items(), buckets)
    sent = json.loads(json.dumps(layout.to_dict()))
    read = dict(WeightLayout.from_dict(sent).views(buckets))
    assert list(read) == list(parameters)
    for name, tensor in parameters.items():
        assert read[name].dtype == (dtype or tensor.dtype)
        assert torch.equal(read[name], tensor.to(read[name].dtype))


@settings(deadline=None)
@given(models, limits)
def test_buckets_are_bounded_and_few(model, limit):
    layout = WeightLayout.of(tensors(model).items(), limit)
    held = [
        [slot for slot in layout.slots.values() if slot.bucket == bucket]
        for bucket in range(len(layout.sizes))
    ]
    for slots, size in zip(held, layout.sizes, strict=True):
        assert size <= limit or sum(slot.nbytes > 0 for slot in slots) == 1
        assert all(slot.offset % ALIGN == 0 for slot in slots)
    for size, after in zip(layout.sizes, held[1:], strict=False):
        padded = -(-after[0].nbytes // ALIGN) * ALIGN
        assert size + padded > limit, "the next tensor would have fitted in"


def test_other_parameters_are_refused():
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    layout = WeightLayout.of(parameters.items())
    buckets = [torch.zeros(size, dtype=torch.uint8) for size in layout.sizes]
    with pytest.raises(ValueError, match="b changed from"):
        layout.write([("a", torch.zeros(2, 3)), ("b", torch.zeros(5))], buckets)
    with pytest.raises(ValueError, match="no value for"):
        layout.write([("a", torch.zeros(2, 3))], buckets)
    with pytest.raises(ValueError, match="c changed from unknown"):
        layout.write([("c", torch.zeros(1))], buckets)


def test_shared_memory_is_read_by_whoever_maps_it():
    parameters = {"a": torch.randn(5, 7), "b": torch.randn(3).bfloat16()}
    sender = SharedMemorySender(parameters.items())
    sender.write(parameters.items())
    info = sender.init_info()
    layout = WeightLayout.from_dict(info["layout"])
    receiver = SharedMemoryReceiver(info["address"], layout, torch.device("cpu"))
    sender.close()
    for name, tensor in receiver.tensors:
        assert torch.equal(tensor, parameters[name])


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_memory_that_cannot_be_shared_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, "max_split_size_mb:64, expandable_segments: True")
    with pytest.raises(UserError, match=variable):
        _refuse_expandable_segments()
