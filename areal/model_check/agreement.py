"""Measures how far an engine differs from the learner, and the learner from transformers' own model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from areal.config import Config, parse_config
from areal.images import Image, to_png
from areal.models.sight import Sight, auto_class, load_sight
from areal.placement.inventory import probe
from areal.rollout.engine import Completion, Engine, Sampling
from areal.runtime.build import start_rollout_worker
from areal.runtime.learner import make_learner
from areal.runtime.plan import Plan, engine_dtype, plan
from areal.trajectory import Batch, Episode, Group, Trajectory
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender, transfer

ALL_WEIGHTS = "all weights"
"""Name of the usual way to train."""
GROUPS, MEMBERS = 4, 4
PROMPT, RESPONSE = 6, 40


@dataclass
class Agreement:
    """The measurements.

    Attributes:
        updates: for each way to train, before the first update and after each: the largest difference between
            the engine's and the learner's log-probability of a sampled token.
        metrics: for each way to train: the metrics of each update.
        packed: largest difference between the learner's log-probabilities of sequences packed into one row,
            and those of transformers' own model on each sequence alone.
    """

    updates: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    packed: float = 0.0


def settings_of(folder: str, device: str = "auto", dtype: str = "float32", **learner: Any) -> Config:
    """Return the settings of a trial: few tokens, and a learning rate that changes every weight."""
    on_gpu = probe(device).device_type(device) == "cuda"
    return parse_config(
        {
            "model": folder,
            "device": device,
            "learner": {
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                "threads": 1,
                "dtype": dtype,
                **learner,
            },
            "engine": {"dtype": dtype, "eager": True, "memory": 0.1 if on_gpu else 1},
            "rollout": {"max_new_tokens": RESPONSE, "max_model_len": 128},
        }
    )


async def measure(
    folder: str,
    ways: Mapping[str, dict[str, Any]] | None = None,
    updates: int = 3,
    device: str = "auto",
    dtype: str = "float32",
    **learner: Any,
) -> Agreement:
    """Start an engine, and train the model in several ways, one after another.

    Engine and learner are those of a run, on one device.

    Args:
        folder: the model.
        ways: settings of the learner by name; None: all weights are trained.
        dtype: compute type of both.
        learner: settings of the learner for all ways.

    Raises:
        UserError: the model cannot be trained, or the engine cannot serve it.
    """
    checked = plan(settings_of(folder, device, dtype, **learner))
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    found = Agreement()
    try:
        for name, way in (ways or {ALL_WEIGHTS: {}}).items():
            config = settings_of(folder, device, dtype, **learner | way)
            found.metrics[name] = await _trained(config, checked, worker.engine, updates)
            found.updates[name] = [metrics["mismatch/logprob_max"] for metrics in found.metrics[name]]
        batch = await sampled(worker.engine, 0, load_sight(folder))
        found.packed = packed_against_alone(folder, batch.trajectories)
        return found
    finally:
        await worker.close()


async def _trained(config: Config, checked: Plan, engine: Engine, updates: int) -> list[dict[str, float]]:
    learner = make_learner(config, checked.model, checked.device, 1)
    dtype = engine_dtype(config, checked.device)
    sent = learner.sent_parameters(dtype)
    sender = open_sender(checked.placement.backends, sent, dtype, checked.device)
    await engine.connect(sender.init_infos())
    found, sight = [], load_sight(checked.model)
    for update in range(updates + 1):
        if update or engine.version:
            sender.write(learner.sent_parameters(dtype))
            await transfer(engine.load(engine.version + 1), asyncio.to_thread(sender.send))
        learner.version = engine.version  # versions that an earlier learner sent also count
        batch = await sampled(engine, engine.version, sight)
        found.append(learner.update(batch))
    sender.close()
    return found


async def sampled(engine: Engine, version: int, sight: Sight | None = None) -> Batch:
    """Sample from random prompts; half of the responses to each count as correct.

    For a vision-language model, all prompts except the last contain an image of noise.
    """
    rng = np.random.default_rng(version)
    prompts: list[tuple[list[int], tuple[Image, ...]]] = []
    for number in range(GROUPS):
        ids = rng.integers(6, 300, PROMPT).tolist()
        images: tuple[Image, ...] = ()
        if sight is not None and number < GROUPS - 1:
            noise = rng.integers(0, 256, (56, 56 + 28 * number, 3), dtype=np.uint8)
            ids, images = sight.place([*ids[:2], sight.token, *ids[2:]], [to_png(noise)])
        prompts.append((ids, images))
    sampling = Sampling(RESPONSE, ignore_eos=True)
    responses = await asyncio.gather(
        *(engine.generate(ids, sampling, images=seen) for ids, seen in prompts for _ in range(MEMBERS))
    )
    groups = []
    for number, (prompt, images) in enumerate(prompts):
        members = responses[number * MEMBERS : (number + 1) * MEMBERS]
        episodes = [Episode([trajectory(prompt, a, images)], float(i % 2)) for i, a in enumerate(members)]
        groups.append(Group(number, version, episodes))
    return Batch(version, groups)


def trajectory(prompt: list[int], response: Completion, images: Sequence[Image] = ()) -> Trajectory:
    """Append a response to its prompt."""
    before = len(prompt)
    return Trajectory(
        tokens=np.array([*prompt, *response.ids], np.int32),
        loss_mask=np.arange(before + len(response.ids)) >= before,
        logprobs=np.array([0.0] * before + response.logprobs, np.float32),
        versions=np.array([-1] * before + response.versions, np.int32),
        images=list(images),
        experts=response.experts,
    )


@torch.no_grad()
def packed_against_alone(folder: str, trajectories: Sequence[Trajectory]) -> float:
    """Return the largest difference between the learner's packed row and transformers' own model."""
    from transformers import AutoConfig

    from areal.learner.model import Policy, load_model
    from areal.learner.packed import pack

    sight = load_sight(folder)
    row = pack(trajectories, torch.device("cpu"), sight=sight)
    ours = Policy(load_model(folder))(row, 1.0).logprobs
    kind = auto_class(AutoConfig.from_pretrained(folder))
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    differences = [0.0]
    for one, found in zip(trajectories, ours.split([one.sampled for one in trajectories]), strict=True):
        tokens = torch.from_numpy(one.tokens[: _readable(one, sight)].astype(np.int64))
        shown = _shown(one, sight, len(tokens)) if sight and one.images else {}
        logits = model(input_ids=tokens[None], use_cache=False, **shown).logits[0, :-1]
        chosen = torch.log_softmax(logits.float(), -1).gather(1, tokens[1:, None])[:, 0]
        theirs = chosen[torch.from_numpy(one.loss_mask[1 : len(tokens)])]
        differences += (found[: len(theirs)] - theirs).abs().tolist()
    return max(differences)


def _readable(one: Trajectory, sight: Sight | None) -> int:
    """Return the length of a sequence that transformers' own model can read: up to a sampled placeholder.

    That model takes every placeholder for one of an image.
    """
    taken = np.flatnonzero(one.loss_mask & (one.tokens == (-1 if sight is None else sight.token)))
    return int(taken[0]) if len(taken) else len(one)


def _shown(one: Trajectory, sight: Sight, length: int) -> dict[str, torch.Tensor]:
    """Return the image inputs of transformers' own model for a sequence."""
    pixels = [sight.pixels(image.png) for image in one.images]
    kinds = torch.zeros(1, length, dtype=torch.int32)
    for image in one.images:
        kinds[0, image.start : image.start + image.tokens] = 1
    return {
        "pixel_values": torch.from_numpy(np.concatenate([each.values for each in pixels])),
        "image_grid_thw": torch.tensor([each.grid for each in pixels]),
        "mm_token_type_ids": kinds,
    }
