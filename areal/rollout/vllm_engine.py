"""vLLM's AsyncLLM as an :class:`areal.rollout.engine.Engine`.

Guarantee: every token carries the exact version of the weights that sampled it and its log-probability
under them, and no sampled token is lost to an update. What an update does to the requests in flight is one
setting, :attr:`VLLMEngine.interruption`:

- ``recompute``: they are frozen, the weights loaded, the KV cache dropped, and they go on: their prefixes are
  computed again under the new weights.
- ``keep``: the same, but they go on upon the KV cache that the old weights computed.
- ``drain``: the update waits until they are finished, and no new one begins meanwhile.

A request that begins under some weights never reads the KV cache of others: its prefix is cached under the
version (vLLM's ``cache_salt``), and one that an update meets before its first token begins again after it.
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
from areal.errors import WITH_ENGINE, EngineLost, TransferFailed, UserError, WrongNumbers
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
"""vLLM hands on the tokens of a step in slices of 128 requests: more slices than any step has."""
_LIFE_SIGN = 1.0
"""Seconds after which to look whether a process that owes an answer still lives."""
DIED = "vLLM has died"
_CALL = re.compile(
    r"Call to \w+ method failed:\s*|Worker failed with error '|', please check the stack trace above.*"
)
"""What vLLM puts around the message of an error that was raised in a process of its own."""
_GRACE = 5.0
"""Seconds for the engine to release our memory on a GPU, at its end; else torch complains at ours."""


class VLLMEngine:
    """A running vLLM engine; build it with :meth:`start`.

    Attributes:
        interruption: what the next :meth:`load` does to the requests in flight.
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
        # Of the weights that sample whatever begins now: while they load, not yet _version.
        self._next_version = 0
        self._ids = itertools.count()
        self._in_flight: set[_Request] = set()
        self._named: dict[str, _Request] = {}
        self._finished_tokens = 0
        self._paused = False
        self._gate = Gate()

    @classmethod
    async def start(cls, settings: EngineSettings) -> VLLMEngine:
        """Start vLLM, in processes of its own; this one needs the environment that :func:`variables` returns.

        It takes 10 to 90 s, of which imports and compilation hold up the event loop.

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
        # In no variable here: an exception that vLLM caught and kept holds on to this frame.
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
        await engine._llm.get_supported_tasks()  # cached from here on: a request enters vLLM without waiting
        return engine

    @property
    def version(self) -> int:
        """The version of the weights that sample now."""
        return self._version

    def progress(self) -> Work:
        """Return how many tokens came from vLLM, and how many requests it owes some now."""
        tokens = self._finished_tokens + sum(self._tokens(request) or 0 for request in self._in_flight)
        return Work(tokens, "tokens", 0 if self._paused else len(self._in_flight), self._version)

    async def generate(
        self, ids: list[int], sampling: Sampling, name: str = "", images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids``; see :class:`areal.rollout.engine.Engine`.

        Args:
            name: by which :meth:`sampled` knows the request, in whichever process it was made.

        Raises:
            BadRequest: vLLM cannot hold the response to the schema.
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
        """Return what was sampled of requests since this was asked last, about once a second.

        Args:
            known: of each request by its name, the id that was returned last, and how many of its tokens the
                caller has; the id is empty at first.

        Returns:
            Name and id of each request that has new tokens, and those tokens. The id changes if the request
            begins again.

        Raises:
            EngineLost: vLLM's process has died.
        """
        if self._llm.errored:
            raise EngineLost(DIED)
        found = []
        for name, (last, count) in known.items():
            if (request := self._named.get(name)) is not None:
                since = count if last == request.id else 0
                new = self._sampled(request, since)
                if new.ids and not (since == 0 and self._begins_again(request, new.versions)):
                    found.append((name, request.id, new))
        return found

    def _sampled(self, request: _Request, since: int) -> Partial:
        """Return what has come of a request from vLLM's process, from one of its tokens on."""
        if (state := self._state(request)) is None:
            return Partial()
        ids = state.detokenizer.output_token_ids
        flat, spans = state.logprobs_processor.logprobs, request.spans
        if self._reports_versions:
            spans = [(start, int(version)) for version, start in state.weight_version_starts]
        if len(flat.logprobs) == len(flat.start_indices):  # of each token only its own
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
            # What ends a continuation is what the chat template says, not what vLLM finds in the model.
            ignore_eos=True,
            stop_token_ids=None if sampling.ignore_eos else self._eos_ids,
            stop=list(sampling.stop),
            logprobs=0,
            flat_logprobs=True,
            routed_experts_prompt_start=sampling.experts_from,
            # Ids are what we train on: text is decoded once, by whoever wants it, not token by token. Only
            # stop strings need it as it grows.
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
            raise BadRequest("the model does not see pictures")
        return self._prompts.prompt(ids, images, salt)

    async def _complete(self, request: _Request, prompt: dict[str, Any], params: Any) -> Completion:
        self._in_flight.add(request)
        try:
            async for output in self._llm.generate(prompt, params, request.id):
                whole = output.outputs[0]
            self._finished_tokens += len(whole.token_ids)
        except self._dead as error:
            raise EngineLost(DIED) from error
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
        """Whether new weights came before its first token, so that it may have read the cache of old ones."""
        if self.interruption != "keep":
            return False
        return request.given_up or (versions != [] and versions[0] != request.version)

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Let the workers open their weight receivers; none: close them, as their other end is gone.

        Raises:
            EngineLost: vLLM's process has died, or cannot do it.
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
        """Return the digests of what came to the workers.

        Raises:
            TransferFailed: it did not come to all.
        """
        reports = await self._llm.collective_rpc("report_weight_transfer")
        if failure := next((failure for failure, _ in reports if failure), ""):
            raise TransferFailed(f"{failed}: {' '.join(failure.split())[:LONGEST_CAUSE]}")
        return {digest for _, digest in reports}

    async def layers(self) -> list[Layer]:
        """Return the layers of the model, of each worker's part, with the types that their weights have.

        Raises:
            EngineLost: vLLM's process has died, or cannot say.
        """
        reports = self._llm.collective_rpc("report_layers")
        answers = await self._answer(reports, "cannot tell the types of its layers")
        # Workers have parts of the same layers; what one of them alone does otherwise, shows.
        return list(dict.fromkeys(tuple(layer) for report in answers for layer in report))

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load what the learner wrote as ``version``, between two tokens or, draining, two requests.

        Args:
            digest: that the weights must have in each worker, or the engine stays paused; empty: any.

        Returns:
            ``time/pause``: seconds from the call that pauses generation to the one that resumes it, and
            ``time/load``: of them, those in which the weights were loaded.

        Raises:
            EngineLost: vLLM's process has died, could not load them, or loaded others.
            TransferFailed: they did not come, because something else was lost. Generation is paused until
                this is called again, after :meth:`connect`, for the same version or a later one.
        """
        failed = f"cannot load version {version} of the weights"
        if self.interruption != "drain":
            return await self._answer(self._swap(version, digest), failed)
        async with self._gate.drained():
            return await self._answer(self._swap(version, digest), failed)

    async def _answer(self, calls: Coroutine[Any, Any, T], failed: str) -> T:
        """Wait for calls of the engine's process; those that it dies in vLLM leaves unanswered for ever.

        Raises:
            EngineLost: it has died, or an error was raised there: then ``failed``, and that error.
        """
        work = asyncio.ensure_future(calls)
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_LIFE_SIGN)
                if self._llm.errored and not work.done():
                    raise self._llm.dead_error
            return work.result()
        except self._dead as error:
            raise EngineLost(DIED) from error
        except Exception as error:
            if type(error) is not Exception:  # by which vLLM tells of those in its own process
                raise
            cause = " ".join(_CALL.sub("", str(error)).split())
            raise EngineLost(f"vLLM {failed}{': ' if cause else ''}{cause[:LONGEST_CAUSE]}") from error
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

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
        if digest and came != {digest}:  # each worker is sent all weights
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
        """Wait, while vLLM is paused, for all tokens to be here: ``version`` samples those that follow.

        The answer to a pause comes after all that was sampled before it, so that only the steps between the
        socket and the requests are left. vLLM before 0.32 does not tell which weights sampled a token.
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
        """Tokens of a request that have come from vLLM's process; None: vLLM does not know it, or no more."""
        state = self._state(request)
        return None if state is None else state.detokenizer.num_output_tokens()

    def _state(self, request: _Request) -> Any:
        """Return what vLLM's front end has of a request; None: nothing yet, or no more."""
        processor = self._llm.output_processor
        known = processor.external_req_ids.get(request.id)
        return processor.request_states[known[0]] if known else None

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._llm.shutdown(timeout=self._grace)  # it holds nothing that must be saved
        # Its destructor needs modules that are gone when the interpreter ends: run it now. It is in cycles.
        self._llm = None
        gc.collect()


@dataclass(eq=False, slots=True)
class _Request:
    """A request in vLLM: the weights at its begin, and whether we gave it up.

    ``spans``: from which token on which weights sampled it, where vLLM does not report it.
    """

    id: str
    version: int
    spans: list[tuple[int, int]]
    given_up: bool = False


def _completion(whole: Any, spans: list[tuple[int, int]]) -> Completion:
    """Take over a continuation as vLLM has it; ``spans`` if it does not know the versions."""
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
    """Raise WrongNumbers if vLLM has computed what is no number: the tokens mean nothing then, either."""
    if not all(map(math.isfinite, logprobs)):
        raise WrongNumbers(
            "vLLM sampled a token whose log-probability is not finite: its kernels are faulty, or its "
            "weights are not finite; engine.eager=true avoids compilation and CUDA graphs"
        )


def _versions(spans: list[tuple[int, int]], count: int, since: int = 0) -> list[int]:
    """Return the version of each token up to ``count``, given from which token on which sampled them."""
    versions: list[int] = []
    for (start, version), (end, _) in itertools.pairwise([*spans, (count, -1)]):
        versions.extend([version] * (end - max(start, since)))
    return versions


def _finish(output: Any) -> Finish:
    if output.finish_reason == "stop":
        return "stop" if isinstance(output.stop_reason, str) else "eos"
    return "length" if output.finish_reason == "length" else "abort"
