"""Every setting of a run, typed and documented, once: the docstring below a field is its documentation."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from areal.config.fields import Bound, Moment, Settings, Staleness
from areal.config.objective import Objective
from areal.thoughts import CLOSE

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "opentelemetry"]

THOUGHT_END = "\n\nMy budget for thinking is used up, so I answer now.\n</think>\n\n"
"""What ends a thought whose budget is used up."""
STARTER = "starter"
"""The name of the model that ships with the package."""


class RolloutConfig(Settings):
    """Generation: how many episodes, how stale, sampled how."""

    batch_size: int = Field(128, ge=1)
    """Episodes that the learner takes for one update."""
    group_size: int = Field(8, ge=1)
    """Episodes of one problem."""
    max_staleness: Staleness = Field(4, ge=0)
    """η: how many updates old a consumed token may be; 0 is synchronous, inf never waits."""
    interruption: Literal["recompute", "keep", "drain"] = "recompute"
    """New weights come between two tokens and prefixes are recomputed, or keep their KV cache, or wait for
    the requests in flight."""
    max_concurrent: int | None = Field(None, ge=1)
    """Episodes in flight at once; null: as many as one batch."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest response of one turn, in tokens."""
    thinking_budget: int | None = Field(None, ge=8)
    """Longest thought of one turn, in tokens, in evaluation too: one that has used them up is ended by
    chat.thought_end, and the response goes on; null: no limit of its own."""
    max_model_len: int | None = Field(None, ge=2)
    """Longest conversation, in tokens; null: the model's own limit, at most 4096."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Sampling temperature of training rollouts; the learner uses the same one."""
    stop: tuple[str, ...] = ()
    """Strings that end a response, in evaluation too; the tokens that spell them belong to the response."""
    env_workers: int = Field(8, ge=1)
    """Calls of the environments' reset and step at once."""
    env_isolation: Literal["auto", "thread", "process"] = "auto"
    """Where they run: on threads of one process, or each environment in a process of its own, which can be
    ended where native code hangs or crashes; auto: on threads, unless the environment asks for a process."""
    workers: int = Field(0, ge=0)
    """Processes of their own, each with a pool of environments, in which a training run's episodes run; 0:
    they run in the run's process."""
    env_time_limit: float = Field(300.0, gt=0)
    """Seconds of one reset or step; what takes longer has failed."""
    max_retries: int = Field(2, ge=0)
    """How often an episode that failed for infrastructure reasons is tried again."""
    max_failures: int = Field(8, ge=0)
    """Episodes in a row that may fail for good before the run stops with their error."""

    @model_validator(mode="before")
    @classmethod
    def _whole_distribution(cls, data: Any) -> Any:
        """The learner's log-probabilities are of the whole softmax, so it must be what is sampled from."""
        for name in ("top_p", "top_k", "min_p") if isinstance(data, dict) else ():
            if name in data:
                raise ValueError(
                    f"training cannot sample with {name}: the engine would sample from a truncated "
                    f"distribution that the learner does not have; set evaluation.{name}, or in training "
                    "lower rollout.temperature"
                )
        return data

    @field_validator("stop")
    @classmethod
    def _stop_says_something(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every response at once; leave it out")
        return stop


class EngineConfig(Settings):
    """The vLLM engine."""

    threads: int | None = Field(None, ge=1)
    """CPU threads of all engines together on a machine without GPU; null: half of the cores."""
    memory: float | None = Field(None, gt=0)
    """KV cache, in GiB on a CPU or as a share of the GPU's memory; null: 1 GiB, or what docs/gpu.md says."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 on a CPU, bfloat16 on a GPU."""
    eager: bool | None = None
    """No compilation and no CUDA graphs; null: eager on a CPU."""
    count: int | None = Field(None, ge=1)
    """Engines; null: one for each GPU that the learner leaves; one GPU's if it leaves none or engine.gpu is
    set, of which there are two where one cannot keep it busy (docs/gpu.md)."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that share the weights and the KV cache of one engine, on a CPU processes; it divides the model's
    attention heads (docs/gpu.md)."""
    gpu: int | None = Field(None, ge=0)
    """The first engine's GPU, counted from 0, which is the learner's; null: one of its own if there is one.
    The others have those that follow, and after the last GPU 0."""
    swap: Literal["together", "in_turn"] = "together"
    """How several engines load new weights: at the same time, or one after the other while the rest generate
    (docs/cluster.md)."""


class ChatConfig(Settings):
    """How conversations open, in training and evaluation alike. Programs (agent=program) open their own."""

    system: str | None = None
    """A system message, in place of the data's own; null: that one, if there is one."""
    examples: tuple[dict[str, str], ...] = ()
    """Messages that user and assistant say in turn (role, content), before the problem: few-shot."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template takes besides, such as enable_thinking: false."""
    keep_thoughts: bool = False
    """Whether later turns see what was thought in earlier ones, also where the chat template drops that."""
    thought_end: str = THOUGHT_END
    """What is put in behind a thought that has used up rollout.thinking_budget; it has </think> in it."""

    @field_validator("examples")
    @classmethod
    def _in_turn(cls, examples: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        wanted = itertools.cycle(("user", "assistant"))
        if len(examples) % 2 or any(
            set(message) != {"role", "content"} or message["role"] != role
            for message, role in zip(examples, wanted, strict=False)
        ):
            raise ValueError(
                "examples are pairs of messages, {role: user, content: …} and {role: assistant, content: …}"
            )
        return examples

    @field_validator("thought_end")
    @classmethod
    def _ends_thoughts(cls, text: str) -> str:
        if text.count(CLOSE) != 1:
            raise ValueError(f"it ends no thought: {CLOSE} has to be in it, once")
        return text

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in ("messages", "tools", "tokenize", "add_generation_prompt", "continue_final_message"):
            if name in kwargs:
                raise ValueError(f"{name} is for areal to say; leave it out")
        return kwargs


class LearnerConfig(Objective):
    """The update. What is null is as the preset ``objective`` has it: docs/objectives.md."""

    critic_learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of the critic of advantage=gae."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(5, ge=0)
    """Updates over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of matrices."""
    betas: tuple[Moment, Moment] = (0.9, 0.95)
    """AdamW's moment decays."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    minibatches: int = Field(2, ge=1)
    """Optimizer steps for one batch."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Largest number of tokens of one forward and backward pass; null: 32768 on a GPU with memory to spare,
    16384 on others, 4096 on a CPU."""
    processes: int = Field(1, ge=1)
    """Processes that share the learner's work and memory, a GPU each, from the first on (docs/gpu.md)."""
    replicas: int = Field(1, ge=1)
    """Copies of weights and optimizer, each sharded over processes / replicas (HSDP), so that only gradients
    cross hosts where a copy is within one; 1: one copy, sharded over all processes (FSDP)."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of all the learner's processes on a machine without GPU; null: half of the cores."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the model computes in; weights and optimizer are float32. auto: bfloat16 on a GPU."""
    max_mismatch: Bound | None = Field(None, gt=0)
    """Stop where the mean difference of log-probabilities of engine and learner (mismatch/logprob) is larger;
    null: 0.01 in float32 on a CPU, 0.2 on a GPU, 0.5 in 16 bits; inf: never."""
    lora_rank: int = Field(0, ge=0)
    """Train adapters of this rank in place of the weights themselves (docs/lora.md); 0: train all weights."""
    router_replay: bool = False
    """In a mixture of experts, let the learner send each token to the experts that the engine sent it to (R3,
    docs/objectives.md)."""
    activation_checkpointing: bool | None = None
    """Keep only each layer's input for the backward pass and compute the rest again: a fifth slower, with
    much less memory; null: only on a GPU that is too small without it (docs/gpu.md)."""
    compile: bool | None = None
    """Compile the layers (torch.compile), up to a minute while the engine starts; null: on a GPU."""


class EvaluationConfig(Settings):
    """Held-out accuracy, measured before and after training, and every so often between."""

    problems: int = Field(256, ge=0)
    """Problems of the test split; 0 turns evaluation off."""
    samples: int = Field(1, ge=1)
    """Responses to each problem."""
    every: int = Field(0, ge=0)
    """Evaluate also after every so many updates; 0: only before and after."""
    temperature: float = Field(1.0, ge=0, le=2)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample among the likeliest tokens that together have this probability; 1: all."""
    top_k: int = Field(0, ge=0)
    """Sample among so many likeliest tokens; 0: all."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample among tokens at least this share as likely as the likeliest; 0: all."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Longest response of one turn, in tokens; null: as in training."""


class CheckpointConfig(Settings):
    """What is kept to go on from."""

    every: int = Field(25, ge=0)
    """Save after every so many updates; 0: only at the end and when stopped."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept."""


class RayConfig(Settings):
    """The hosts of a Ray cluster, with placement=ray (docs/cluster.md)."""

    address: str = "auto"
    """host:port of the cluster's head; auto: the cluster that this host belongs to."""
    hosts: int | None = Field(None, ge=1)
    """How many hosts the run holds, each as a whole; null: all with a GPU, or on CPUs all."""
    grow: int = Field(0, ge=0)
    """How many hosts that join the cluster later it takes besides, for engines. One in place of a lost one is
    taken anyway."""
    cpu_hosts: int = Field(0, ge=0)
    """How many hosts without GPU it holds besides, for the processes of rollout.workers."""
    interface: str | None = None
    """Network interface, such as eth1, by which they reach each other; null: the one that Ray uses."""


class RunConfig(Settings):
    """What keeps a run from standing still: docs/standstill.md."""

    stall_limit: float = Field(300.0, ge=0)
    """Seconds without any progress after which a run, or a part of it, is taken for frozen and ended, with a
    report; a tenth of them without a sign of life of a worker; 0: never."""
    max_restarts: int = Field(3, ge=0)
    """How often within an hour an engine, or the learner, that was lost is started again; 0: never."""


class Config(Settings):
    """One training run."""

    env: str = "math-v1"
    """An id, path/to/file.py:Class, a YAML file, or a package's folder: docs/environments.md."""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment; `areal env show` says what it takes."""
    agent: str = "single-turn"
    """How the model acts in the environment: a registered name, or path/to/file.py:Name."""
    agent_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the agent."""
    model: str = STARTER
    """A hub id, a folder, or 'starter': the model that ships with areal."""
    recipe: str | None = None
    """Settings to begin with, by name (`--recipe list`); null: for a model of more than 50 million parameters
    those for its size and the GPUs, for smaller ones none; none: none (docs/recipes.md)."""
    steps: int = Field(100, ge=1)
    """Updates."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds the order of problems and the sampling; with max_staleness=0 each request (docs/staleness.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    placement: Literal["local", "ray"] = "local"
    """Where learner and engines are: on this machine, or on the hosts of a Ray cluster (docs/cluster.md)."""
    output: Path = Path("runs")
    """Folder of the run directories."""
    name: str | None = None
    """Name of the run directory; null: environment, model and time."""
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that get the run, too, such as [wandb, tensorboard] (docs/trackers.md)."""
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    chat: ChatConfig = Field(default_factory=ChatConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    ray: RayConfig = Field(default_factory=RayConfig)
    run: RunConfig = Field(default_factory=RunConfig)

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, trackers: Any) -> Any:
        return (trackers,) if isinstance(trackers, str) else trackers

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        r = self.rollout
        if r.batch_size % r.group_size:
            raise ValueError(
                f"rollout.batch_size={r.batch_size} is not a multiple of rollout.group_size={r.group_size}"
            )
        if r.group_size == 1 and self.learner.compares_groups:
            raise ValueError(
                f"rollout.group_size=1 leaves learner.advantage={self.learner.advantage} nothing to "
                f"compare a reward with; raise it, or use advantage=global-normalised or gae"
            )
        if self.learner.turn_discount is not None and self.learner.advantage == "gae":
            raise ValueError("learner.turn_discount is for advantages of whole turns; gae has gamma")
        if self.learner.processes > 1 and self.learner.advantage == "gae":
            raise ValueError(
                f"learner.processes={self.learner.processes}: the critic of learner.advantage=gae is "
                "trained by one process; set it to 1, or take another advantage"
            )
        if self.learner.processes % self.learner.replicas:
            raise ValueError(
                f"learner.replicas={self.learner.replicas} does not divide learner.processes="
                f"{self.learner.processes}, and each is sharded over as many processes; set it to 1 or to "
                "another divisor"
            )
        groups = r.batch_size // r.group_size
        if groups % self.learner.minibatches:
            raise ValueError(
                f"learner.minibatches={self.learner.minibatches} does not divide the {groups} groups of a "
                f"batch (rollout.batch_size / rollout.group_size)"
            )
        if not math.isinf(r.max_staleness) and r.max_staleness != int(r.max_staleness):
            raise ValueError(f"rollout.max_staleness={r.max_staleness} is not a whole number (or inf)")
        return self

    @property
    def groups_per_batch(self) -> int:
        """B: groups that one update takes."""
        return self.rollout.batch_size // self.rollout.group_size
