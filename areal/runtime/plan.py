"""The plan of a run: its configuration, checked as far as possible before anything heavy starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from areal import registry
from areal.agents.single_turn import SingleTurn
from areal.config import Config, override_config
from areal.config.settings import LearnerConfig
from areal.envs.adapted import AdaptedEnv
from areal.envs.gym_text import GymTextEnv
from areal.envs.mixture import MixtureEnv
from areal.envs.problems import ProblemEnv
from areal.errors import UserError
from areal.models import load_tokenizer, resolve_model
from areal.models.loading import context_limit
from areal.models.resolve import last_checkpoint
from areal.placement.describe import summary
from areal.placement.inventory import Inventory, probe
from areal.placement.memory import Shape, Workload
from areal.placement.placement import Placement, place
from areal.placement.sharing import EngineLoad
from areal.rollout.endpoint.server import require_framework
from areal.rollout.rendering import check_template_kwargs
from areal.rollout.router import max_in_flight
from areal.runtime.agents import make_agent, takes_steps
from areal.runtime.compilers import require_compilers
from areal.runtime.first_look import look_at
from areal.runtime.host_checks import check_code_on_hosts, check_model_on_hosts, probe_hosts
from areal.runtime.model_checks import (
    check_experts,
    check_model,
    check_sight,
    check_tensor_parallel,
    check_thoughts,
)
from areal.step_sizes import LARGE_MICRO_BATCH
from areal.telemetry.trackers.tracking import require_trackers
from areal.workers.cluster import Cluster
from areal.workers.early import EarlyProcesses

if TYPE_CHECKING:
    import torch


_DEFAULT_MAX_MODEL_LEN = 4096
_LEARNING_RATES = {False: (1e-9, 1e-3), True: (1e-8, 1e-2)}
"""The smallest and the largest learning rate that can train all weights (False) or an adapter (True).

An update of AdamW changes each weight by about the learning rate, whatever its gradient. Weights are about
0.02: 1e-3 changes them by 5% at once, and less than 1e-9 is lost in the rounding of float32. An adapter
begins at zero and is multiplied by small weights, so it tolerates and needs ten times as much.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked run: nothing is started yet.

    Attributes:
        model: folder or hub id.
        max_model_len: maximum sequence length in tokens.
        agent: how the model acts; None: HTTP clients decide.
        env: a closed instance of its environment, which only provides its problems; None: there is none.
        training: whether there is a learner in addition to the engines.
        cluster: the hosts of the placement, unless it is only this machine.
        early: processes that the run's workers take over.
    """

    config: Config
    model: str
    placement: Placement
    max_model_len: int
    agent: Any
    env: Any
    notices: tuple[str, ...] = ()
    training: bool = True
    cluster: Cluster | None = None
    early: EarlyProcesses | None = None

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.placement.device_type

    @property
    def summary(self) -> list[str]:
        """Lines for the user: decisions, how data was read, and the placement."""
        lines = [*self.remarks, *summary(self.placement)]
        if self.training and (count := self.config.rollout.workers):
            hosts = dict.fromkeys(self.placement.rollout_hosts[:count])
            lines.append(f"rollout workers: {count}, on {' and '.join(hosts)}")
        return lines

    @property
    def remarks(self) -> list[str]:
        """Lines for the user: decisions, and how data was read."""
        lines = list(self.notices)
        config = self.config
        if config.recipe and self.training:
            lines.append(
                f"recipe {config.recipe}: responses of up to {config.rollout.max_new_tokens:,} tokens, "
                f"learning rate {config.learner.learning_rate:g} (--recipe none selects areal's own "
                "defaults)"
            )
        made = None if self.env is None else self.env.unwrapped
        lines += getattr(made, "notices", ())
        if isinstance(made, ProblemEnv | MixtureEnv | AdaptedEnv | GymTextEnv):
            lines += [f"warning: {line}" for line in made.warnings if self.training]
        if self.training and (line := strange_learning_rate(config.learner)):
            lines.append(f"warning: {line}")
        return lines

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The compute types of engine and learner."""
        import torch

        from areal.learner.parallelize import compute_dtype

        of_learner = compute_dtype(self.config.learner, torch.device(self.device))
        return {engine_dtype(self.config, self.device), of_learner}


def plan(
    config: Config,
    training: bool = True,
    inventory: Inventory | None = None,
    cluster: Cluster | None = None,
) -> Plan:
    """Check environment, agent, model, device, lengths and memory.

    Args:
        training: whether there is a learner in addition to the engine.
        inventory: hosts and devices to plan for, without the model's weights; None: those of the cluster.
        cluster: the hosts that the run holds; None: only this machine.

    Raises:
        UserError: one of them is not available.
    """
    if training:
        require_trackers(config.trackers)
    if training and config.learner.lora_rank:
        from areal.learner.lora import require_packages

        require_packages(config.learner)
    agent = make_agent(config)
    resolve_model(config.model, inventory is None)  # before the environment, which may start slowly
    env = registry.make_env(config.env, **config.env_options)
    problems, limit = config.evaluation.problems, config.rollout.env_time_limit
    look = look_at(env, config.env, problems, training, limit, takes_steps(agent))
    if look.pictures:
        check_sight(config.env, agent, config.model)
    planned = _planned(config, training, agent, env, inventory, cluster)
    if look.goes_on and isinstance(agent, SingleTurn):
        warning = (
            f"warning: an episode of {config.env} went on after an answer, but the agent single-turn stops "
            "after one response; if episodes take several turns, use --agent multi-turn"
        )
        return replace(planned, notices=(*planned.notices, warning))
    return planned


def strange_learning_rate(learner: LearnerConfig) -> str:
    """Return why a learning rate is far outside of those that train a model; empty if it is not."""
    rate, adapter = learner.learning_rate, bool(learner.lora_rank)
    least, most = _LEARNING_RATES[adapter]
    if least <= rate <= most:
        return ""
    usual = "1e-5 to 1e-3 for an adapter" if adapter else "1e-6 to 1e-4"
    effect = "leaves the model as it is" if rate < least else "destroys the model within a few updates"
    which = "below" if rate < least else "above"
    return (
        f"learner.learning_rate={rate:g} {effect}: it is {which} {least if rate < least else most:g}; usual "
        f"values are {usual}"
    )


def plan_serving(config: Config, inventory: Inventory | None = None) -> Plan:
    """Check model, device, lengths and memory of engines that serve a model to clients.

    Raises:
        UserError: one of them is not available.
    """
    require_framework()
    return _planned(config, False, None, None, inventory, None)


def _planned(
    config: Config,
    training: bool,
    agent: Any,
    env: Any,
    inventory: Inventory | None,
    cluster: Cluster | None,
) -> Plan:
    model, notices = resolve_model(config.model, inventory is None), list[str]()
    if (checkpoint := last_checkpoint(config.model)) is not None:
        notices.append(f"{config.model} has no final model; using its last checkpoint, {checkpoint}")
        config = config.model_copy(update={"model": str(checkpoint)})
    if config.chat.template_kwargs:
        check_template_kwargs(load_tokenizer(model).chat_template, config.chat.template_kwargs)
    notices += check_model(model, training)
    check_tensor_parallel(model, config.engine.tensor_parallel)
    if training and config.learner.router_replay:
        check_experts(model)
    longest = _max_model_len(config, model)
    check_thoughts(
        config, model, {"max_model_len": longest} if env is None else _response_lengths(config, training)
    )
    if inventory is None:
        inventory = probe(config.device) if cluster is None else probe_hosts(cluster, config.device)
    wanted = config
    if inventory.device_type(config.device) == "cuda" and config.engine.memory is None:
        placement, config = _fitting(inventory, config, training, model, longest)
    else:
        placement = place(inventory, config, training)
    if config.learner.activation_checkpointing != wanted.learner.activation_checkpointing:
        notices.append("learner.activation_checkpointing=true, because the learner does not fit without it")
    if cluster is not None:
        used = {rank.host for rank in placement.ranks}
        used |= {host for engine in placement.engines for host in engine.hosts}
        if config.rollout.workers:
            check_code_on_hosts(cluster, placement.rollout_hosts, config)
            used |= {*placement.rollout_hosts}
        check_model_on_hosts(cluster, used, model)
    require_compilers(config, placement.device_type)
    return Plan(config, model, placement, longest, agent, env, tuple(notices), training, cluster)


def _fitting(
    inventory: Inventory, config: Config, training: bool, model: str, longest: int
) -> tuple[Placement, Config]:
    """Return a placement with the memory of its GPUs divided, and a configuration that fits.

    The learner's micro-batches are large if this does not reduce a KV cache. If nothing else fits, engines
    share no GPU, and the learner keeps less for its backward pass.

    Raises:
        UserError: it still does not fit, or there are not enough devices.
    """
    shape = _shape(model)
    load = EngineLoad(shape.parameters * engine_dtype(config, "cuda").itemsize, max_concurrent(config))
    ways: list[tuple[Config, EngineLoad | None]] = [(config, load), (config, None)]
    if training and config.learner.activation_checkpointing is None:
        ways.append((override_config(config, ["learner.activation_checkpointing=true"]), None))
    large = override_config(config, [f"learner.micro_batch_tokens={LARGE_MICRO_BATCH}"])
    if training and config.learner.micro_batch_tokens is None:
        ways.insert(0, (large, load))
    for number, (tried, shared) in enumerate(ways, 1):
        placement = place(inventory, tried, training, shared)
        try:
            placed = placement.with_memory(shape, workload(placement, tried, longest))
        except UserError:
            if number == len(ways):
                raise
            continue
        if tried is not large or all(part.whole for part in placed.memory):
            return placed, tried
    raise AssertionError("one way fits, or the last one explains why none does")


def _shape(model: str) -> Shape:
    from transformers import AutoConfig

    return Shape.of(AutoConfig.from_pretrained(model))


def placed_anew(plan: Plan, placement: Placement) -> Plan:
    """Return the plan of a run whose engines have changed, with the memory of its GPUs divided.

    Raises:
        UserError: something does not fit.
    """
    if plan.placement.memory:
        work = workload(placement, plan.config, plan.max_model_len)
        placement = placement.with_memory(_shape(plan.model), work)
    return replace(plan, placement=placement)


def workload(placement: Placement, config: Config, longest: int) -> Workload:
    """Return the demands of a run on its GPUs.

    Args:
        longest: number of tokens of the longest sequence.
    """
    import torch

    from areal.learner.parallelize import compute_dtype, micro_batch_tokens

    learner, device, ranks = config.learner, torch.device("cuda"), len(placement.ranks)
    return Workload(
        sequences=max_in_flight(max_concurrent(config), len(placement.engines)),
        longest=longest,
        engine_bytes=engine_dtype(config, "cuda").itemsize,
        quantized=config.engine.quantization is not None,
        graphs=not config.engine.eager,
        micro_batch_tokens=micro_batch_tokens(learner, device) if ranks else None,
        critic=learner.advantage == "gae",
        reference=learner.kl > 0,
        learner_bytes=compute_dtype(learner, device).itemsize,
        activation_checkpointing=bool(learner.activation_checkpointing),
        compiled=learner.compile is not False,
        adapter=max([learner.lora_rank, *learner.lora_options.get("rank_pattern", {}).values()]),
        nf4=learner.base_precision == "nf4",
        shared=engine_dtype(config, "cuda") == compute_dtype(learner, device),
        ranks=max(1, ranks),
        replicas=placement.replicas,
        tensor_parallel=placement.tensor_parallel,
    )


def _max_model_len(config: Config, model: str) -> int:
    limit = context_limit(model) or _DEFAULT_MAX_MODEL_LEN
    length = config.rollout.max_model_len or min(limit, _DEFAULT_MAX_MODEL_LEN)
    if length > limit:
        raise UserError(
            f"rollout.max_model_len={length} exceeds the model's limit of {limit} tokens; decrease it"
        )
    for name, wanted in (
        ("rollout", config.rollout.max_new_tokens),
        ("evaluation", config.evaluation.max_new_tokens or 0),
    ):
        if wanted >= length:
            raise UserError(
                f"{name}.max_new_tokens={wanted} leaves no room for a prompt in {length} tokens (the "
                "model's limit, or rollout.max_model_len); decrease it"
            )
    return length


def _response_lengths(config: Config, training: bool) -> dict[str, int]:
    """Return the maximum response lengths, by their settings."""
    evaluation = config.evaluation.max_new_tokens
    found = {} if evaluation is None else {"evaluation.max_new_tokens": evaluation}
    if training or evaluation is None:
        found["rollout.max_new_tokens"] = config.rollout.max_new_tokens
    return found


def max_concurrent(config: Config) -> int:
    """Return the number of concurrent trajectories."""
    return config.rollout.max_concurrent or config.rollout.batch_size


def engine_dtype(config: Config, device: str) -> torch.dtype:
    """Return the type of the engine's weights."""
    import torch

    wanted = config.engine.dtype
    if wanted == "auto":
        wanted = "float32" if device == "cpu" else "bfloat16"
    return getattr(torch, wanted)
