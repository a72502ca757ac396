"""What a run is to be: its configuration, checked as far as can be before anything heavy starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from areal import registry
from areal.config import Config, override_config
from areal.envs.mixture import MixtureEnv
from areal.envs.problems import ProblemEnv
from areal.errors import UserError
from areal.models import context_limit, last_checkpoint, load_tokenizer, resolve_model
from areal.rollout.engines import max_in_flight
from areal.rollout.rendering import check_template_kwargs
from areal.rollout.vllm_start import gpu_bytes
from areal.runtime.agents import make_agent
from areal.runtime.cards import engine_cards
from areal.runtime.compilers import require_compilers
from areal.runtime.first_look import look_at
from areal.runtime.memory import Load, Shape, Split, describe, split
from areal.runtime.model_checks import check_model

if TYPE_CHECKING:
    import torch


_DEFAULT_MAX_MODEL_LEN = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked run: nothing is started yet.

    ``cards``: the GPU of each engine; the learner's processes have the first ones. ``memory``: how each of
    these is divided; nothing on a CPU, or where ``engine.memory`` says it. ``notices``: what the user is to
    know.
    """

    config: Config
    model: str
    device: str
    max_model_len: int
    agent: Any
    env: Any
    cards: tuple[int, ...] = (0,)
    memory: tuple[Split, ...] = ()
    notices: tuple[str, ...] = ()
    training: bool = True

    @property
    def summary(self) -> list[str]:
        """Lines that tell the user what was decided, and how data was read."""
        lines = list(self.notices)
        config = self.config
        if config.recipe and self.training:
            lines.append(
                f"recipe {config.recipe}: responses of up to {config.rollout.max_new_tokens:,} tokens, "
                f"learning rate {config.learner.learning_rate:g} (--recipe none: areal's own defaults)"
            )
        if isinstance(made := self.env.unwrapped, ProblemEnv | MixtureEnv):
            lines += made.notices
            lines += [f"warning: {line}" for line in made.warnings if self.training]
        if len(self.cards) > 1:
            where = f", on the GPUs {', '.join(map(str, self.cards))}" if self.device == "cuda" else ""
            lines.append(f"{len(self.cards)} engines{where}")
        return [*lines, describe(self.memory)] if self.memory else lines

    @property
    def dtypes(self) -> set[torch.dtype]:
        """What engine and learner compute in."""
        import torch

        from areal.learner.parallelize import compute_dtype

        of_learner = compute_dtype(self.config.learner, torch.device(self.device))
        return {engine_dtype(self.config, self.device), of_learner}

    @property
    def engine_threads(self) -> int:
        """CPU threads of all engines: half of the cores, so that learner and engines never fight for one."""
        return self.config.engine.threads or max(1, cores() // 2)

    @property
    def learner_threads(self) -> int:
        """CPU threads of each process of the learner: they share the other half."""
        learner = self.config.learner
        return max(1, (learner.threads or cores() - self.engine_threads) // learner.processes)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def plan(config: Config, training: bool = True) -> Plan:
    """Check environment, agent, model, device, lengths and memory.

    Args:
        config: of the run.
        training: whether there is a learner, beside the engine.

    Raises:
        UserError: one of them cannot be had.
    """
    if training and config.learner.lora_rank:
        from areal.learner.lora import require_peft

        require_peft()
    agent = make_agent(config)
    model, notices = resolve_model(config.model), list[str]()
    if (checkpoint := last_checkpoint(config.model)) is not None:
        notices.append(f"{config.model} has no final model; its last checkpoint is taken: {checkpoint}")
        config = config.model_copy(update={"model": str(checkpoint)})
    env = registry.make_env(config.env, **config.env_options)
    look_at(env, config.env, config.evaluation.problems, training, config.rollout.env_time_limit)
    if config.chat.template_kwargs:
        check_template_kwargs(load_tokenizer(model).chat_template, config.chat.template_kwargs)
    notices += check_model(model, training)
    device, longest = _device(config.device), _max_model_len(config, model)
    require_compilers(config, device)
    memory: tuple[Split, ...] = ()
    cards = _cards(config, device, training)
    if device == "cuda" and config.engine.memory is None:
        try:
            memory = _memory(config, model, longest, training, cards)
        except UserError:
            if not training or config.learner.activation_checkpointing is not None:
                raise
            config = override_config(config, ["learner.activation_checkpointing=true"])
            memory = _memory(config, model, longest, training, cards)
    return Plan(config, model, device, longest, agent, env, cards, memory, tuple(notices), training)


def _cards(config: Config, device: str, training: bool) -> tuple[int, ...]:
    import torch

    engine = config.engine
    if device == "cpu":
        return (0,) * (engine.count or 1)
    count, learners = torch.cuda.device_count(), config.learner.processes if training else 0
    if learners > max(1, count):
        raise UserError(
            f"learner.processes={learners}, but torch sees {count} GPU{'s' * (count > 1)}, and each process "
            f"needs one: set it to {count} or less"
        )
    return engine_cards(engine.count, engine.gpu, count, learners)


def _memory(
    config: Config, model: str, longest: int, training: bool, cards: tuple[int, ...]
) -> tuple[Split, ...]:
    from transformers import AutoConfig

    return divide(config, Shape.of(AutoConfig.from_pretrained(model)), gpu_bytes(), longest, training, cards)


def divide(
    config: Config, shape: Shape, card: int, longest: int, training: bool, cards: tuple[int, ...]
) -> tuple[Split, ...]:
    """Divide the cards of the engines; needs none.

    Args:
        config: of the run.
        shape: of its model.
        card: bytes of each GPU.
        longest: tokens of the longest sequence.
        training: whether there is a learner.
        cards: the number of each engine's GPU; the learner's processes have the first ones.

    Raises:
        UserError: something does not fit.
    """
    import torch

    from areal.learner.parallelize import compute_dtype, micro_batch_tokens

    learner, device = config.learner, torch.device("cuda")
    load = Load(
        sequences=max_in_flight(max_concurrent(config), len(cards)),
        longest=longest,
        engine_bytes=engine_dtype(config, "cuda").itemsize,
        graphs=not config.engine.eager,
        micro_batch_tokens=micro_batch_tokens(learner, device) if training else None,
        critic=learner.choices.advantage == "gae",
        reference=learner.choices.kl > 0,
        learner_bytes=compute_dtype(learner, device).itemsize,
        activation_checkpointing=bool(learner.activation_checkpointing),
        compiled=learner.compile is not False,
        adapted=learner.lora_rank > 0,
        ranks=learner.processes if training else 1,
    )
    ranks = learner.processes
    # Whether the learner is elsewhere, and whether a rank that is not the first is on the card.
    kinds = [(training and engine >= ranks, training and 0 < engine < ranks) for engine in cards]
    splits = {
        (apart, sent): split(shape, card, replace(load, apart=apart, sent=sent)) for apart, sent in set(kinds)
    }
    return tuple(splits[kind] for kind in kinds)


def _max_model_len(config: Config, model: str) -> int:
    limit = context_limit(model) or _DEFAULT_MAX_MODEL_LEN
    length = config.rollout.max_model_len or min(limit, _DEFAULT_MAX_MODEL_LEN)
    if length > limit:
        raise UserError(f"rollout.max_model_len={length} is more than the model's own {limit}")
    for name, wanted in (
        ("rollout", config.rollout.max_new_tokens),
        ("evaluation", config.evaluation.max_new_tokens or 0),
    ):
        if wanted >= length:
            raise UserError(
                f"{name}.max_new_tokens={wanted} leaves no room for a prompt in {length} tokens (the model's "
                "limit, or rollout.max_model_len)"
            )
    return length


def _device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU; use device=cpu or install a CUDA build of torch")
    return wanted


def max_concurrent(config: Config) -> int:
    """Trajectories in flight at once."""
    return config.rollout.max_concurrent or config.rollout.batch_size


def engine_dtype(config: Config, device: str) -> torch.dtype:
    """Type of the engine's weights."""
    import torch

    wanted = config.engine.dtype
    if wanted == "auto":
        wanted = "float32" if device == "cpu" else "bfloat16"
    return getattr(torch, wanted)
