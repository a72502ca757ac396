"""Compares Algorithm 1 with a fixed count of micro-batches, packed and padded, on long-tailed lengths.

    python benchmarks/microbatch.py [--sequences 48] [--budget 2048] [--repeats 3]

The benchmark runs one forward and backward pass of the learner's loss over the same sequences. It splits them
into micro-batches in four ways. No way ever holds more tokens than the budget at once, because the purpose of
micro-batches is to limit the memory:

- algorithm 1: the allocation that the learner uses (arXiv 2505.24298), with one packed row per micro-batch;
- best fit: the fullest micro-batches that a longest-first allocation makes, with one packed row each;
- fixed count: the sequences in their original order, the same number in each micro-batch, with one packed
  row. The count is the smallest one that fits;
- padded: the same, but with one row per sequence, padded to the longest one, and with transformers' own
  attention. Here the padding also takes memory, so the count is larger.

Padding is wasted computation. The padded way computes it everywhere. A packed row computes it only in the
attention, which pads runs of neighbors with similar lengths. (On a GPU, the attention can do without
padding.) No two sequences share a prompt, so the only gain is that of the split. The lengths are log-normal
with a median of 80, and each repeat draws new ones. The ways take turns.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import BLUE, GRAY, GREEN, ORANGE, interleaved, parser, picture, save

from areal.config.objective import Objective
from areal.learner.attention import runs
from areal.learner.microbatches import allocate, best_fit
from areal.learner.model import Policy, load_model
from areal.learner.objectives import Tokens, token_loss
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.trajectory import Trajectory

COLORS = {"algorithm 1": BLUE, "best fit": GREEN, "fixed count": ORANGE, "padded": GRAY}
SPREADS = (0.3, 0.8, 1.3)
PROMPT, LONGEST, VOCABULARY = 8, 1000, (6, 380)

Cut = list[list[Trajectory]]


def sequences(rng: np.random.Generator, count: int, spread: float) -> list[Trajectory]:
    """Return sequences of random tokens; ``spread`` is the standard deviation of a length's logarithm."""
    lengths = np.clip(np.exp(rng.normal(np.log(80), spread, count)).astype(int), PROMPT + 1, LONGEST)
    return [
        Trajectory(
            tokens=rng.integers(*VOCABULARY, n).astype(np.int32),
            loss_mask=np.arange(n) >= PROMPT,
            logprobs=np.where(np.arange(n) >= PROMPT, -2.0, 0.0).astype(np.float32),
            versions=np.zeros(n, np.int32),
        )
        for n in lengths
    ]


def fixed_count(members: list[Trajectory], budget: int, size: Callable[[list[Trajectory]], int]) -> Cut:
    """Split sequences, in order, into the fewest equal parts of which none is larger than the budget."""
    for count in range(1, len(members) + 1):
        parts = [[members[i] for i in part] for part in np.array_split(np.arange(len(members)), count)]
        if max(map(size, parts)) <= budget:
            return parts
    raise AssertionError("a sequence is longer than the budget")


def real(members: list[Trajectory]) -> int:
    return sum(map(len, members))


def rectangle(members: list[Trajectory]) -> int:
    return len(members) * max(map(len, members))


def attended(members: list[Trajectory]) -> int:
    """Return the tokens that attention computes in a packed row, including the padding within its runs."""
    return sum((last - first) * longest for first, last, longest in runs([len(t) for t in members]))


def cuts(members: list[Trajectory], budget: int) -> dict[str, Cut]:
    lengths = [len(t) for t in members]
    return {
        "algorithm 1": [[members[i] for i in part] for part in allocate(lengths, budget)],
        "best fit": [[members[i] for i in part] for part in best_fit(lengths, budget)],
        "fixed count": fixed_count(members, budget, real),
        "padded": fixed_count(members, budget, rectangle),
    }


class Passes:
    """Run the forward and backward passes over a cut, packed or padded."""

    def __init__(self, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        path = resolve_model("starter")
        self._device = device
        self._packed = Policy(load_model(path)).to(device)
        self._plain = AutoModelForCausalLM.from_pretrained(path).to(device).eval()

    def seconds(self, way: str, cut: Cut) -> float:
        started = time.perf_counter()
        for members in cut:
            (self._padded if way == "padded" else self._row)(members)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _row(self, members: list[Trajectory]) -> None:
        packed = pack(members, self._device)
        logprobs, _ = self._packed(packed, 1.0)
        self._backward(logprobs, packed.behav, packed.owner)

    def _padded(self, members: list[Trajectory]) -> None:
        longest = max(map(len, members))
        ids = np.zeros((len(members), longest), np.int64)
        sampled = np.zeros(ids.shape, bool)
        for row, t in enumerate(members):
            ids[row, : len(t)], sampled[row, : len(t)] = t.tokens, t.loss_mask
        tokens, mask = torch.from_numpy(ids).to(self._device), torch.from_numpy(sampled).to(self._device)
        lengths = torch.tensor([[len(t)] for t in members], device=self._device)
        real = torch.arange(longest, device=self._device) < lengths
        logits = self._plain(tokens, attention_mask=real.long(), use_cache=False).logits[:, :-1]
        logprobs = torch.log_softmax(logits.float(), -1)
        with torch.no_grad():  # as the learner does
            -(logprobs.exp() * logprobs).sum(-1)
        chosen = logprobs.gather(-1, tokens[:, 1:, None])[..., 0][mask[:, 1:]]
        self._backward(chosen, torch.full_like(chosen, -2.0), mask.nonzero()[:, 0])

    def _backward(self, logprobs: torch.Tensor, behav: torch.Tensor, owner: torch.Tensor) -> None:
        advantages = torch.ones_like(behav)
        tokens = Tokens(logprobs, logprobs.detach(), behav, advantages, owner)
        token_loss(Objective(), tokens).loss.sum().backward()


def measure(passes: Passes, spread: float, count: int, budget: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    drawn = [cuts(sequences(rng, count, spread), budget) for _ in range(repeats + 1)]
    turn = dict.fromkeys(COLORS, 0)

    def run(way: str) -> float:
        cut = drawn[turn[way]][way]
        turn[way] += 1
        return sum(map(real, cut)) / passes.seconds(way, cut)

    # The first round is not counted: torch sets itself up in it.
    found = interleaved({way: lambda way=way: run(way) for way in COLORS}, repeats + 1)
    speeds = {way: values[1:] for way, values in found.items()}
    table = {}
    for way in COLORS:
        used = [cut[way] for cut in drawn[1:]]
        tokens = sum(real(part) for cut in used for part in cut)
        computed = rectangle if way == "padded" else attended
        slots = sum(computed(part) for cut in used for part in cut)
        ratios = [a / b for a, b in zip(speeds[way], speeds["fixed count"], strict=True)]
        table[way] = {
            "tokens_per_s": statistics.median(speeds[way]),
            "over_fixed_count": statistics.median(ratios),
            "over_fixed_count_range": [min(ratios), max(ratios)],
            "micro_batches": statistics.fmean(len(cut) for cut in used),
            "padding": 1 - tokens / slots,
            "budget_used": tokens / (budget * sum(len(cut) for cut in used)),
        }
    return table


def draw(folder: Path, results: dict[str, Any]) -> None:
    title = "Ways to form micro-batches, for lengths with a long tail"
    with picture(folder, "microbatch", title, (9, 4)) as figure:
        panels = figure.subplots(1, 3)
        titles = {
            "over_fixed_count": "tokens/s relative to fixed count",
            "padding": "padding (packed: in attention)",
            "micro_batches": "number of micro-batches",
        }
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            for i, (way, color) in enumerate(COLORS.items()):
                heights = [results[str(spread)][way][key] for spread in SPREADS]
                axes.bar(np.arange(len(SPREADS)) + 0.2 * i - 0.3, heights, 0.2, label=way, color=color)
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(len(SPREADS)), [f"σ = {spread}" for spread in SPREADS])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def main() -> None:
    options = parser(__doc__, "microbatch")
    options.add_argument("--sequences", type=int, default=48, help="sequences per pass (default: 48)")
    options.add_argument("--budget", type=int, default=2048, help="tokens per micro-batch (default: 2048)")
    options.add_argument("--repeats", type=int, default=3, help="passes of each way (default: 3)")
    options.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    half = max(1, len(os.sched_getaffinity(0)) // 2)
    options.add_argument(
        "--threads", type=int, default=half, help=f"CPU threads, as in a run (default: {half})"
    )
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    passes = Passes(torch.device(given.device))
    results: dict[str, Any] = {}
    for spread in SPREADS:
        table = measure(passes, spread, given.sequences, given.budget, given.repeats)
        results[str(spread)] = table
        for way, row in table.items():
            print(
                f"σ={spread}  {way:12} {row['tokens_per_s']:8,.0f} tokens/s  "
                f"{row['over_fixed_count']:.2f} times fixed count  "
                f"{row['micro_batches']:5.1f} micro-batches  padding {row['padding']:.0%}",
                flush=True,
            )
    settings = {key: getattr(given, key) for key in ("sequences", "budget", "repeats", "device", "threads")}
    print(save(given.output, "microbatch", {"settings": settings, "spreads": results}))
    draw(given.output, results)


if __name__ == "__main__":
    main()
