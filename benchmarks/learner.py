"""Measures the learner's model FLOPs utilization (MFU) on a GPU, and the effect of each choice.

    python benchmarks/learner.py --device cuda --sizes 0.5b,1.5b

The benchmark times whole updates (packing, forward, backward, optimizer) of a model of a Qwen2.5 shape with
random weights. The lengths of the trajectories have a long tail (log-normal, median 500, up to 8,000 tokens),
and no two trajectories have the same prompt. The configurations are:

- *algorithm 1*: the learner's own method.
- *best fit*: the fullest possible micro-batches.
- *fixed count, padded*: trajectories in the original order, each padded to the longest of its micro-batch.
  There are as many micro-batches as are needed to keep each within the same budget.
- *eager*, *flash-attn*, *FlashAttention 4*, *PyTorch's attention*, *activation checkpointing*: algorithm 1
  with one choice changed. Algorithm 1 uses the attention of flash-attn if it is installed.

``--lora RANK`` trains an adapter, so that a 7B model fits on one GPU.

MFU is a share of the GPU's peak performance. It counts the operations that the update needs
(areal.learner.flops), but neither padding nor recomputation. The tokens/s count only real tokens.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BLUE, GRAY, GREEN, ORANGE, PURPLE, SKY, parser, picture, save
from models import qwen2

from areal.config import LearnerConfig
from areal.learner import microbatches
from areal.learner.attention import Kernel, flash4_kernel, flash_kernel, torch_kernel
from areal.learner.learner import Learner
from areal.learner.microbatches import allocate, best_fit
from areal.trajectory import Batch, Episode, Group, Trajectory

COLORS = {
    "algorithm 1": BLUE,
    "best fit": GREEN,
    "fixed count, padded": ORANGE,
    "eager": GRAY,
    "flash-attn": "black",
    "FlashAttention 4": "#999933",
    "PyTorch's attention": SKY,
    "activation checkpointing": PURPLE,
}
TURNED = {"eager": {"compile": False}, "activation checkpointing": {"activation_checkpointing": True}}
"""Settings that change one choice of algorithm 1."""
GROUP = 8


KERNELS: dict[str, Callable[[], Kernel]] = {
    "flash-attn": flash_kernel,
    "FlashAttention 4": flash4_kernel,
    "PyTorch's attention": torch_kernel,
}


def trajectories(rng: np.random.Generator, count: int, vocabulary: int, longest: int) -> list[Trajectory]:
    lengths = np.clip(np.exp(rng.normal(math.log(longest / 16), 0.9, count)).astype(int), 32, longest)
    made = []
    for length in lengths:
        mask = np.arange(length) >= min(128, length // 2)
        made.append(
            Trajectory(
                tokens=rng.integers(6, vocabulary, length).astype(np.int32),
                loss_mask=mask,
                logprobs=np.where(mask, -math.log(vocabulary), 0).astype(np.float32),
                versions=np.where(mask, 0, -1).astype(np.int32),
            )
        )
    return made


def batch(members: list[Trajectory]) -> Batch:
    episodes = [Episode([member], float(i % GROUP)) for i, member in enumerate(members)]
    groups = [episodes[i : i + GROUP] for i in range(0, len(episodes), GROUP)]
    return Batch(0, [Group(number, 0, group) for number, group in enumerate(groups)])


def fixed_count(lengths: list[int], budget: int) -> list[list[int]]:
    """Split sequences, in order, into the fewest equal parts that each fit into the budget when padded."""
    for count in range(1, len(lengths) + 1):
        parts = [part.tolist() for part in np.array_split(np.arange(len(lengths)), count)]
        if max(len(part) * max(lengths[i] for i in part) for part in parts) <= budget:
            return parts
    raise AssertionError("a sequence is longer than the budget")


def padded(members: list[Trajectory], budget: int) -> list[Trajectory]:
    """Pad trajectories to the longest one in their micro-batch, with tokens that do not count."""
    made: list[Trajectory] = []
    for part in fixed_count([len(t) for t in members], budget):
        longest = max(len(members[i]) for i in part)
        made += [pad(members[i], longest - len(members[i])) for i in part]
    return made


def pad(t: Trajectory, count: int) -> Trajectory:
    return replace(
        t,
        tokens=np.concatenate([t.tokens, np.full(count, 6, np.int32)]),
        loss_mask=np.concatenate([t.loss_mask, np.zeros(count, bool)]),
        logprobs=np.concatenate([t.logprobs, np.zeros(count, np.float32)]),
        versions=np.concatenate([t.versions, np.full(count, -1, np.int32)]),
    )


@contextmanager
def cut_by(cut: Callable[[list[int], int], list[list[int]]]) -> Iterator[None]:
    microbatches.allocate = cut  # type: ignore[assignment]
    try:
        yield
    finally:
        microbatches.allocate = allocate


def same_cut(parts: list[list[int]]) -> Callable[[list[int], int], list[list[int]]]:
    return lambda lengths, budget: parts


class Bench:
    """Measures updates of one model, with the same work in each configuration."""

    def __init__(
        self, path: str, device: str, budget: int, micro_batches: int, repeats: int, longest: int
    ) -> None:
        self._path, self._device, self._budget, self._repeats = path, device, budget, repeats
        from transformers import AutoConfig

        vocabulary = AutoConfig.from_pretrained(path).vocab_size
        rng = np.random.default_rng(0)
        count = GROUP * max(1, round(micro_batches * budget / (longest / 16 * 1.5) / GROUP))
        self._batches = [trajectories(rng, count, vocabulary, longest) for _ in range(repeats + 1)]

    def measure(self, way: str, **settings: Any) -> dict[str, Any]:
        """Return medians over updates, after compilation and a first update that allocates all memory."""
        learner = Learner(
            self._path,
            LearnerConfig(minibatches=1, learning_rate=1e-6, micro_batch_tokens=self._budget, **settings),
            self._device,
            temperature=1.0,
            kernel=KERNELS[way]() if way in KERNELS else None,
        )
        learner.warm_up()
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        # An adapter's weights need next to nothing, and those below it no gradient.
        passes = 2 if learner.adapted else 3
        rows, slots = [], []
        for members in self._batches:
            tokens = sum(map(len, members))
            lengths = [len(t) for t in members]
            parts, given = allocate(lengths, self._budget), members
            if way == "best fit":
                parts = best_fit(lengths, self._budget)
            elif way == "fixed count, padded":
                parts, given = fixed_count(lengths, self._budget), padded(members, self._budget)
            needed = sum(
                learner._flops.forward(len(t), t.sampled, len(t) * (len(t) + 1) // 2) for t in members
            )
            with cut_by(same_cut(parts)):
                seconds = learner.update(batch(given))["time/train"]
            slots.append(len(parts))
            rows.append((tokens / seconds, passes * needed / seconds))
        speeds, flops = zip(*rows[1:], strict=True)
        peak = learner._peak
        found = {
            "tokens_per_s": statistics.median(speeds),
            "tokens_per_s_runs": list(speeds),
            "tflops": statistics.median(flops) / 1e12,
            "mfu": statistics.median(flops) / peak if peak else None,
            "micro_batches": statistics.fmean(slots),
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if self._device == "cuda" else None,
            "description": learner.description,
        }
        del learner
        gc.collect()
        torch.cuda.empty_cache()
        mfu = f"MFU {found['mfu']:.1%}" if found["mfu"] else ""
        memory = f"{found['memory_gib']:.1f} GiB" if found["memory_gib"] else ""
        print(
            f"{way:20} {found['tokens_per_s']:9,.0f} tokens/s  {mfu}  {found['micro_batches']:.1f} "
            f"micro-batches  {memory}  ({found['description']})",
            flush=True,
        )
        return found

    def profile(self, file: Path, **settings: Any) -> None:
        """Write the time of one update by kernel to ``file``, and its trace to the same folder."""
        from torch.profiler import ProfilerActivity, profile

        settings = LearnerConfig(
            minibatches=1, learning_rate=1e-6, micro_batch_tokens=self._budget, **settings
        )
        learner = Learner(self._path, settings, self._device, temperature=1.0)
        learner.warm_up()
        learner.update(batch(self._batches[0]))
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            learner.update(batch(self._batches[1]))
        file.parent.mkdir(parents=True, exist_ok=True)
        tables = [
            found.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=90)
            for key in ("self_cuda_time_total", "self_cpu_time_total")
        ]
        file.write_text("\n".join(tables))
        found.export_chrome_trace(str(file.with_suffix(".json.gz")))
        del learner
        gc.collect()
        torch.cuda.empty_cache()


def draw(folder: Path, sizes: dict[str, dict[str, Any]]) -> None:
    with picture(folder, "learner", "Updates on packed sequences with a long tail", (9, 4.2)) as figure:
        speed, mfu = figure.subplots(1, 2)
        for i, ways in enumerate(sizes.values()):
            for j, (way, found) in enumerate(ways.items()):
                at = i + 0.8 * (j + 0.5) / len(ways) - 0.4
                width = 0.8 / len(ways)
                label = way if i == 0 else None
                speed.bar(at, found["tokens_per_s"] / 1000, width, color=COLORS[way], label=label)
                mfu.bar(at, 100 * (found["mfu"] or 0), width, color=COLORS[way])
        speed.set_ylabel("thousand tokens/s")
        mfu.set_ylabel("model FLOPs utilization, %")
        for axes in (speed, mfu):
            axes.set_xticks(range(len(sizes)), [f"{size} parameters" for size in sizes])
        figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def main() -> None:
    options = parser(__doc__, "learner")
    options.add_argument("--device", default="cuda", help="cpu or cuda (default: cuda)")
    options.add_argument("--sizes", default="0.5b,1.5b", help="model shapes (default: 0.5b,1.5b)")
    options.add_argument(
        "--budget", type=int, default=16384, help="maximum tokens of one micro-batch (default: 16384)"
    )
    options.add_argument(
        "--micro-batches", type=int, default=6, help="approximate micro-batches of one update (default: 6)"
    )
    options.add_argument(
        "--longest", type=int, default=8192, help="maximum tokens of a trajectory (default: 8192)"
    )
    options.add_argument(
        "--repeats", type=int, default=3, help="number of updates of each configuration (default: 3)"
    )
    options.add_argument(
        "--ways",
        nargs="+",
        choices=COLORS,
        default=list(COLORS),
        help="configurations to measure (default: all)",
    )
    options.add_argument("--lora", type=int, default=0, help="rank of an adapter (default: 0, all weights)")
    options.add_argument("--profile", action="store_true", help="also write a kernel profile of one update")
    given = options.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for size in given.sizes.split(","):
        print(f"{size} parameters")
        with tempfile.TemporaryDirectory() as folder:
            path = qwen2(Path(folder), size)
            bench = Bench(path, given.device, given.budget, given.micro_batches, given.repeats, given.longest)
            results[size] = {}
            adapter = {"lora_rank": given.lora} if given.lora else {}
            for way in given.ways:
                results[size][way] = bench.measure(way, **adapter, **TURNED.get(way, {}))
            if given.profile:
                bench.profile(given.output / f"profile-{size}.txt", **adapter)
    settings = {
        key: getattr(given, key)
        for key in ("device", "budget", "micro_batches", "repeats", "longest", "lora")
    }
    print(save(given.output, "learner", {"settings": settings, "sizes": results}))
    draw(given.output, results)


if __name__ == "__main__":
    main()
