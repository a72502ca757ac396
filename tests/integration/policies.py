"""Weights that change on an engine, and what each version of them computes, by transformers in float64."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Awaitable, Callable, Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from areal.errors import TransferFailed
from areal.models import resolve_model
from areal.rollout.engine import Completion, Engine
from areal.threads import CallThread
from areal.weights.interface import TransferBackend
from areal.weights.sender import open_sender, transfer

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
TOLERANCE = 6e-2 if ON_GPU else 1e-4
"""Largest error of a log-probability in fp32.

4e-5 is usual at worst on a CPU; on a GPU, where the engine's attention multiplies in tf32, 2e-2 (5e-2 seen).
"""
DISTINCT = 2e-1 if ON_GPU else 1e-3
"""Error that tells another version from a token's own."""
_LOAD_LIMIT = 180
"""Seconds in which an engine must have taken new weights, on the slowest machine."""


def assert_agree(errors: torch.Tensor) -> None:
    """Hold errors of log-probabilities, of any shape, to the bound above."""
    assert errors.max() < TOLERANCE, errors.max()


class Policies:
    """Versions of a model, each as far from the last as several large updates would take it."""

    def __init__(
        self,
        engine: Engine,
        folder: str | None = None,
        backend: TransferBackend | None = None,
        workers: int = 1,
    ) -> None:
        """Of the model that the engine, of so many workers, serves: in ``folder``, or the starter model."""
        self.engine = engine
        path = folder or resolve_model("starter")
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            self._model.model.norm.weight.mul_(0.3)  # uncertain everywhere: any change of any weight shows
        self._base = copy.deepcopy(self._model)
        backends: list[TransferBackend] = [backend or ("CUDA IPC" if ON_GPU else "shared memory")]
        self.sender = open_sender(
            backends, self._model.named_parameters(), torch.float32, DEVICE, workers=workers
        )
        self.references: dict[int, torch.nn.Module] = {}
        self.times: dict[str, float] = {}
        self._prompts: dict[tuple[int, tuple[int, ...]], DynamicCache] = {}

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The newest version's weights."""
        return self._model.named_parameters()

    async def connect(self) -> None:
        """Let the engine take this object's weights."""
        await self.engine.connect(self.sender.init_infos())

    async def lose(self, version: int) -> None:
        """Load a version whose transfer fails, since somebody else does not take part in it."""
        backends: list[TransferBackend] = ["broadcast", "broadcast"]
        self.sender.open(backends)
        await self.engine.connect(self.sender.init_infos()[:1])
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def send() -> None:
            loop.call_soon_threadsafe(begun.set)
            self.sender.send()

        sending = asyncio.ensure_future(CallThread("lost sending").run(send))
        loading = asyncio.ensure_future(self.engine.load(version))
        await begun.wait()
        assert not (await asyncio.wait([sending, loading], timeout=0.3))[0]
        self.sender.open(backends[:1])
        async with asyncio.timeout(_LOAD_LIMIT):
            with pytest.raises(TransferFailed, match=f"version {version} of the weights did not arrive: "):
                await loading
            await asyncio.gather(sending, return_exceptions=True)

    async def update(self, scale: float = 1.0, ready: Callable[[], Awaitable[object]] | None = None) -> int:
        """Make a new version, load it, and return its number.

        Args:
            scale: of the output's norm.
            ready: awaited when the version is made, and before it is loaded.
        """
        version = self.engine.version + 1
        generator = torch.Generator().manual_seed(version)
        with torch.no_grad():
            for parameter, base in zip(self._model.parameters(), self._base.parameters(), strict=True):
                noise = torch.randn(base.shape, generator=generator)
                parameter.copy_(base + 0.05 * base.std().clamp(min=0.02) * noise)
            self._model.model.norm.weight.mul_(scale)
        self.references[version] = copy.deepcopy(self._model).double()
        digest = self.sender.write(self._model.named_parameters())
        if ready is not None:
            await ready()
        async with asyncio.timeout(_LOAD_LIMIT):  # an engine that never finishes pausing fails, not hangs
            sending = asyncio.to_thread(self.sender.send)
            self.times = await transfer(self.engine.load(version, digest), sending)
        return version

    def close(self) -> None:
        """Close the sender."""
        self.sender.close()

    def logits(self, version: int, prompt: list[int], ids: list[int]) -> torch.Tensor:
        """Logits before each of ``ids`` under one version: ``[len(ids), V]``."""
        cache = copy.deepcopy(self._read(version, tuple(prompt[:-1])))
        with torch.no_grad():
            fed = torch.tensor([[prompt[-1], *ids[:-1]]])
            return self.references[version](fed, past_key_values=cache).logits[0]

    def _read(self, version: int, prompt: tuple[int, ...]) -> DynamicCache:
        """Keys and values of a prompt under one version; many completions may share them."""
        key = (version, prompt)
        if key not in self._prompts:
            self._prompts[key] = DynamicCache()
            with torch.no_grad():
                self.references[version](torch.tensor([prompt]), past_key_values=self._prompts[key])
        return self._prompts[key]

    def logits_on_kept_cache(self, prompt: list[int], completion: Completion) -> torch.Tensor:
        """Logits before each token under its own version, upon keys and values as they were computed then.

        The last token before a change has been sampled but not read: it is the new weights that read it.
        """
        tokens, cache, found = prompt + completion.ids, DynamicCache(), []
        end = len(prompt)
        for version, run in itertools.groupby(completion.versions):
            length = len(list(run))
            end += length
            fed = torch.tensor([tokens[cache.get_seq_length() : end - 1]])
            with torch.no_grad():
                logits = self.references[version](fed, past_key_values=cache).logits
            found.append(logits[0, -length:])
        return torch.cat(found)


def chosen(logits: torch.Tensor, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each of ``ids``."""
    return torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def error(logits: torch.Tensor, completion: Completion, temperature: float = 1.0) -> torch.Tensor:
    """How far the engine's log-probability of each token is from the reference's."""
    return (torch.tensor(completion.logprobs) - chosen(logits, completion.ids, temperature)).abs()
