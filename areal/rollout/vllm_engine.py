"""vLLM's AsyncLLM as an :class:`areal.rollout.engine.Engine`.

Guarantee: every token carries its log-probability and the exact version of the weights that sampled it, and
no sampled token is lost in an update. A setting, :attr:`VLLMEngine.interruption`, determines the effect of an
update on the requests in flight:

- ``recompute``: they are paused, the weights are loaded, the KV cache is dropped, and they continue; their
  prefixes are recomputed under the new weights.
- ``keep``: the same, but they continue with the KV cache of the old weights.
- ``drain``: the update waits until they are finished, and no new request begins during this time.

A request that begins under some weights never reads the KV cache of others: its prefix is cached under the
version (vLLM's ``cache_salt``), and a request that is interrupted by an update before its first token begins
again after it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import re
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from areal.agents.interface import BadRequest
from areal.errors import (
    WITH_ENGINE,
    EngineLost,
    TransferFailed,
    UserError,
    WrongNumbers,
    how_ended,
)
from areal.images import Image
from areal.models.sight import load_sight
from areal.rollout.engine import Completion, Interruption, Partial, Sampling
from areal.rollout.experts import experts_of
from areal.rollout.gate import Gate
from areal.rollout.quantization import Layer
from areal.rollout.vllm_sight import Prompts
from areal.rollout.vllm_start import LONGEST_CAUSE, EngineSettings, engine_config, starting
from areal.trajectory import Finish
from areal.waiting import Work

log = logging.getLogger(__name__)
T = TypeVar("T")

_OUTPUT_SLICES = 64
"""vLLM sends the tokens of a step in slices of 128 requests; this is more slices than any step has."""
_LIFE_SIGN = 1.0
"""Interval in seconds for checking that a process that owes an answer is alive."""
DIED = "vLLM has died"
_CALL = re.compile(
    r"Call to \w+ method failed:\s*|Worker failed with error '|', please check the stack trace above.*"
)
"""The frame that vLLM puts around the message of an error in one of its processes."""
_GRACE = 5.0
"""Seconds for the engine to release our GPU memory when it ends; otherwise torch complains when we end."""


class VLLMEngine:
    """A running vLLM engine; build it with :meth:`start`.

    Attributes:
        interruption: effect of the next :meth:`load` on the requests in flight.
    """

    def __init__(
        self,
        llm: Any,
        eos_ids: tuple[int, ...],
        interruption: Interruption = "recompute",
        grace: float = 0.0,
        prompts: Prompts | None = None,
        experts: bool = False,
    ) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        self.interruption: Interruption = interruption
        self._llm = llm
        self._dead = EngineDeadError
        self._invalid = VLLMValidationError
        self._grace, self._experts = grace, experts
        self._prompts = prompts
        self._reports_versions = hasattr(llm, "update_weight_version")  # since vLLM 0.32
        self._eos_ids = list(eos_ids)
        self._version = 0
        # Version of the weights for new requests; during a load, this is not yet _version.
        self._next_version = 0
        self._ids = itertools.count()
        self._in_flight: set[_Request] = set()
        self._named: dict[str, _Request] = {}
        self._finished_tokens = 0
        self._paused = False
        self._gate = Gate()

    @classmethod
    async def start(cls, settings: EngineSettings) -> VLLMEngine:
        """Start vLLM in separate processes; this one needs the environment from :func:`variables`.

        It takes 10 to 90 s, during which imports and compilation may block the event loop.

        Raises:
            UserError: vLLM is not installed.
            EngineLost: vLLM did not start.
        """
        try:
            from vllm.v1.engine.async_llm import AsyncLLM
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] == "vllm":
                raise UserError(f"vLLM is not installed; install it with {WITH_ENGINE}") from error
            raise
        # Not in a variable, because an exception that vLLM caught and kept refers to this frame.
        with starting():
            engine = cls(
                AsyncLLM.from_vllm_config(engine_config(settings), disable_log_stats=True),
                settings.eos_ids,
                settings.interruption,
                _GRACE if settings.device == "cuda" and settings.weight_backend is not None else 0.0,
                Prompts(sight) if (settings.sees and (sight := load_sight(settings.model))) else None,
                settings.experts,
            )
        if engine._reports_versions:
            await engine._llm.update_weight_version("0")
        if settings.experts and settings.device == "cpu":
            recorded = engine._llm.collective_rpc("record_experts")
            await engine._answer(recorded, "cannot record the experts of tokens")
        await engine._llm.get_supported_tasks()  # cached from now on, so that requests do not wait for it
        return engine

    @property
    def version(self) -> int:
        """The version of the weights that currently sample."""
        return self._version

    def progress(self) -> Work:
        """Return the number of tokens from vLLM, and of requests for which it currently owes tokens."""
        tokens = self._finished_tokens + sum(self._tokens(request) or 0 for request in self._in_flight)
        return Work(tokens, "tokens", 0 if self._paused else len(self._in_flight), self._version)

    async def generate(
        self, ids: list[int], sampling: Sampling, name: str = "", images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids``; see :class:`areal.rollout.engine.Engine`.

        Args:
            name: the name of the request in :meth:`sampled`, in any process.

        Raises:
            BadRequest: vLLM cannot enforce the schema on the response.
        """
        params = self._params(sampling)
        async with self._gate.request():
            try:
                while True:
                    request = _Request(str(next(self._ids)), self._version, [(0, self._next_version)])
                    self._named[name] = request
                    completion = await self._complete(request, self._prompt(ids, images, request), params)
                    if not self._begins_again(request, completion.versions):
                        return completion
            finally:
                self._named.pop(name, None)

    async def sampled(self, known: Mapping[str, tuple[str, int]]) -> list[tuple[str, str, Partial]]:
        """Return the new samples of requests since the last call, about once a second.

        Args:
            known: for each request by name, the id that was returned last, and the number of tokens that the
                caller has; the id is empty at first.

        Returns:
            Name and id of each request with new tokens, and those tokens. The id changes if the request
            begins again.

        Raises:
            EngineLost: vLLM's process has died.
        """
        if self._llm.errored:
            raise self._died()
        found = []
        for name, (last, count) in known.items():
            if (request := self._named.get(name)) is not None:
                since = count if last == request.id else 0
                new = self._sampled(request, since)
                if new.ids and not (since == 0 and self._begins_again(request, new.versions)):
                    found.append((name, request.id, new))
        return found

    def _sampled(self, request: _Request, since: int) -> Partial:
        """Return the tokens of a request that have arrived from vLLM's process, starting at one of them."""
        if (state := self._state(request)) is None:
            return Partial()
        ids = state.detokenizer.output_token_ids
        flat, spans = state.logprobs_processor.logprobs, request.spans
        if self._reports_versions:
            spans = [(start, int(version)) for version, start in state.weight_version_starts]
        if len(flat.logprobs) == len(flat.start_indices):  # for each token only its own
            logprobs = flat.logprobs[since:]
        else:
            logprobs = [flat.logprobs[start] for start in flat.start_indices[since:]]
        _require_numbers(logprobs)
        return Partial(list(ids[since:]), logprobs, _versions(spans, len(ids), since))

    def _params(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            structured_outputs=StructuredOutputsParams(json=sampling.schema) if sampling.schema else None,
            # The chat template determines what ends a continuation, not vLLM's view of the model.
            ignore_eos=True,
            stop_token_ids=None if sampling.ignore_eos else self._eos_ids,
            stop=list(sampling.stop),
            logprobs=0,
            flat_logprobs=True,
            routed_experts_prompt_start=sampling.experts_from,
            # Training uses ids, so text is decoded once, when needed, instead of token by token. Only stop
            # strings need it during generation.
            detokenize=bool(sampling.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        params.skip_clone = True
        return params

    def _prompt(self, ids: list[int], images: Sequence[Image], request: _Request) -> dict[str, Any]:
        salt = str(request.version)
        if not images:
            return {"type": "token", "prompt_token_ids": ids, "cache_salt": salt}
        if self._prompts is None:
            raise BadRequest("the model cannot see images")
        return self._prompts.prompt(ids, images, salt)

    async def _complete(self, request: _Request, prompt: dict[str, Any], params: Any) -> Completion:
        self._in_flight.add(request)
        try:
            async for output in self._llm.generate(prompt, params, request.id):
                whole = output.outputs[0]
            self._finished_tokens += len(whole.token_ids)
        except self._dead as error:
            raise self._died() from error
        except self._invalid as error:
            if params.structured_outputs is None:
                raise
            raise BadRequest(f"vLLM does not support the schema of the response: {error}") from error
        finally:
            self._in_flight.discard(request)
        completion = _completion(whole, request.spans)
        if not self._experts or completion.finish == "abort":
            return completion
        return replace(completion, experts=experts_of(output, params.routed_experts_prompt_start))

    def _begins_again(self, request: _Request, versions: list[int]) -> bool:
        """Return whether new weights came before the first token; it may then have read an old cache."""
        if self.interruption != "keep":
            return False
        return request.given_up or (versions != [] and versions[0] != request.version)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Let the workers open their weight receivers; if there are no infos, close them.

        Raises:
            EngineLost: vLLM's process has died, or cannot open them.
            TransferFailed: the other end of the connection is gone.
        """
        if not init_infos:
            release = self._llm.collective_rpc("release_weights")
            await self._answer(release, "cannot close its weight receiver")
            return
        [init_info] = init_infos
        await self._answer(self._connect(init_info), "cannot open its weight receiver")

    async def _connect(self, init_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))
        await self._check_transfer("an engine cannot connect to the learner's weights")

    async def _check_transfer(self, failed: str) -> set[str]:
        """Return the digests of the weights that arrived in the workers.

        Raises:
            TransferFailed: the weights did not arrive in all workers.
        """
        reports = await self._llm.collective_rpc("report_weight_transfer")
        if failure := next((failure for failure, _ in reports if failure), ""):
            raise TransferFailed(f"{failed}: {' '.join(failure.split())[:LONGEST_CAUSE]}")
        return {digest for _, digest in reports}

    async def layers(self) -> list[Layer]:
        """Return the layers of each worker's part of the model, with the types of their weights.

        Raises:
            EngineLost: vLLM's process has died, or cannot report them.
        """
        reports = self._llm.collective_rpc("report_layers")
        answers = await self._answer(reports, "cannot report the types of its layers")
        # Workers have parts of the same layers; a difference in one of them is visible.
        return list(dict.fromkeys(tuple(layer) for report in answers for layer in report))

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load the learner's weights as ``version``, between two tokens or, when draining, two requests.

        Args:
            digest: required digest of the weights in each worker, otherwise the engine stays paused; empty:
                any.

        Returns:
            ``time/pause``: seconds from the call that pauses generation to the one that resumes it; and
            ``time/load``: the part of them in which the weights were loaded.

        Raises:
            EngineLost: vLLM's process has died, could not load the weights, or has loaded others.
            TransferFailed: the weights did not arrive, because something else was lost. Generation is paused
                until this is called again, after :meth:`connect`, for the same version or a later one.
        """
        failed = f"cannot load version {version} of the weights"
        if self.interruption != "drain":
            return await self._answer(self._swap(version, digest), failed)
        async with self._gate.drained():
            return await self._answer(self._swap(version, digest), failed)

    async def _answer(self, calls: Coroutine[Any, Any, T], failed: str) -> T:
        """Wait for calls of the engine's process; if it dies, vLLM leaves them without an answer.

        Raises:
            EngineLost: it has died, or raised an error; the message is ``failed``, followed by that error.
        """
        work = asyncio.ensure_future(calls)
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_LIFE_SIGN)
                if self._llm.errored and not work.done():
                    raise self._llm.dead_error
            return work.result()
        except self._dead as error:
            raise self._died() from error
        except Exception as error:
            if type(error) is not Exception:  # the type of errors in vLLM's own process
                raise
            cause = " ".join(_CALL.sub("", str(error)).split())
            raise EngineLost(f"vLLM {failed}{': ' if cause else ''}{cause[:LONGEST_CAUSE]}") from error
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _died(self) -> EngineLost:
        """Return the loss of vLLM's process, with the way in which it ended, if that is known."""
        manager = self._llm.engine_core.resources.engine_manager
        codes = manager.finished_procs().values() if manager is not None else ()
        return EngineLost(DIED + "".join(f" ({how_ended(code)})" for code in [*codes][:1]))

    async def _swap(self, version: int, digest: str) -> dict[str, float]:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        keep = self.interruption == "keep"
        begun = time.monotonic()
        self._paused = True
        await self._llm.pause_generation(mode="keep", clear_cache=not keep)
        await self._note_boundaries(version)
        still = time.monotonic()
        await self._llm.start_weight_update()
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info={}))
        await self._llm.finish_weight_update()
        came = await self._check_transfer(f"version {version} of the weights did not arrive")
        if digest and came != {digest}:  # each worker receives all weights
            raise EngineLost(
                f"the weights that arrived as version {version} are not those that the learner sent: the "
                f"digest is {' and '.join(sorted(came))}, not {digest}"
            )
        if self._reports_versions:
            await self._llm.update_weight_version(str(version))
        loaded = time.monotonic()
        self._version = version
        if keep:
            for request in [r for r in self._in_flight if not self._tokens(r)]:
                request.given_up = True
                await self._llm.abort(request.id)
        resuming = time.monotonic()
        await self._llm.resume_generation()
        self._paused = False
        return {"time/pause": resuming - begun, "time/load": loaded - still}

    async def _note_boundaries(self, version: int) -> None:
        """Wait, while vLLM is paused, until all tokens have arrived; ``version`` samples later ones.

        The answer to a pause comes after everything that was sampled before it, so only the steps between the
        socket and the requests remain. vLLM before 0.32 does not report which weights sampled a token.
        """
        self._next_version = version
        if self._reports_versions and self.interruption != "keep":
            return
        steps = 1 + self._llm.engine_core.outputs_queue.qsize()
        for _ in range(steps * _OUTPUT_SLICES):
            await asyncio.sleep(0)
        if not self._reports_versions:
            for request in self._in_flight:
                if (count := self._tokens(request)) is not None:
                    request.spans.append((count, version))

    def _tokens(self, request: _Request) -> int | None:
        """Return the number of tokens of a request from vLLM's process; None: vLLM does not know it."""
        state = self._state(request)
        return None if state is None else state.detokenizer.num_output_tokens()

    def _state(self, request: _Request) -> Any:
        """Return the state of a request in vLLM's front end; None: there is none yet, or no longer."""
        processor = self._llm.output_processor
        known = processor.external_req_ids.get(request.id)
        return processor.request_states[known[0]] if known else None

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=self._grace)  # it contains nothing to save
        # Its destructor needs modules that are gone at the interpreter's end, so run it now. It is in
        # reference cycles.
        self._llm = None
        gc.collect()


@dataclass(eq=False, slots=True)
class _Request:
    """A request in vLLM: the weights at its start, and whether we have aborted it.

    ``spans``: first token of each weight version, if vLLM does not report versions.
    """

    id: str
    version: int
    spans: list[tuple[int, int]]
    given_up: bool = False


def _completion(whole: Any, spans: list[tuple[int, int]]) -> Completion:
    """Convert a continuation of vLLM; ``spans`` are used if vLLM does not report versions."""
    ids = list(whole.token_ids)
    logprobs = (
        [whole.logprobs.logprobs[start] for start in whole.logprobs.start_indices] if whole.logprobs else []
    )
    versions: list[int] = []
    if hasattr(whole, "weight_versions"):
        for span in whole.weight_versions or ():
            versions.extend([int(span.version)] * (span.end - span.start))
    else:
        versions = _versions(spans, len(ids))
    if not len(ids) == len(logprobs) == len(versions):
        raise RuntimeError(
            f"vLLM returned {len(ids)} tokens, {len(logprobs)} log-probabilities, {len(versions)} versions"
        )
    _require_numbers(logprobs)
    return Completion(ids, logprobs, versions, _finish(whole))


def _require_numbers(logprobs: list[float]) -> None:
    """Raise WrongNumbers if vLLM has computed NaN; its tokens are then meaningless, too."""
    if not all(map(math.isfinite, logprobs)):
        raise WrongNumbers(
            "vLLM sampled a token whose log-probability is not finite: its kernels are faulty, or its "
            "weights are not finite; engine.eager=true avoids compilation and CUDA graphs"
        )


def _versions(spans: list[tuple[int, int]], count: int, since: int = 0) -> list[int]:
    """Return the version of each token up to ``count``, given the first token of each version."""
    versions: list[int] = []
    for (start, version), (end, _) in itertools.pairwise([*spans, (count, -1)]):
        versions.extend([version] * (end - max(start, since)))
    return versions


def _finish(output: Any) -> Finish:
    if output.finish_reason == "stop":
        return "stop" if isinstance(output.stop_reason, str) else "eos"
    return "length" if output.finish_reason == "length" else "abort"
