"""One real vLLM engine for all tests that can share it: a start takes half a minute."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from areal.config import parse_config
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import start_rollout_worker
from areal.runtime.plan import plan
from areal.weights.interface import VLLM_BACKEND

# The helpers of these tests are modules beside them.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integration" in item.path.parts and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest_asyncio.fixture(scope="package")
async def worker() -> AsyncIterator[RolloutWorker]:
    """The starter model on an engine that takes new weights and may be given stop strings."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    engine = {"dtype": "float32", "memory": 0.1 if on_gpu else 1.0, "gpu": 0}
    config = parse_config({"rollout": {"max_model_len": 1024, "stop": ["boxed"]}, "engine": engine})
    checked = plan(config)
    made = await start_rollout_worker(checked, VLLM_BACKEND)
    yield made
    await made.close()
