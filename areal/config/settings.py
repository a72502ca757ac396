"""The settings of a run, with types and documentation: the docstring below a field documents it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from areal.config.fields import Bound, Moment, Settings, Staleness
from areal.config.lora_options import LoraOptions
from areal.config.objective import Objective
from areal.thoughts import CLOSE

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "opentelemetry"]

THOUGHT_END = "\n\nMy budget for thinking is used up, so I answer now.\n</think>\n\n"
"""The text that ends a thought whose budget is used up."""
STARTER = "starter"
"""The name of the model that ships with the package."""


class RolloutConfig(Settings):
    """Generation: the number of episodes, their staleness, and how responses are sampled."""

    batch_size: int = Field(128, ge=1)
    """Number of episodes in one update."""
    group_size: int = Field(8, ge=1)
    """Number of episodes for each problem (a group)."""
    max_staleness: Staleness = Field(4, ge=0)
    """η, the maximum staleness, in updates, of a token when the learner consumes it. 0: synchronous training.
    inf: generation never waits for the learner."""
    interruption: Literal["recompute", "keep", "drain"] = "recompute"
    """What a weight update does to requests in flight. recompute: it pauses them, and the engine recomputes
    their KV cache with the new weights. keep: it pauses them, and they keep their KV cache. drain: it waits
    until they have finished."""
    max_concurrent: int | None = Field(None, ge=1)
    """Maximum number of episodes in flight; null: one batch."""
    max_new_tokens: int = Field(64, ge=1)
    """Maximum length of the response in one turn, in tokens."""
    thinking_budget: int | None = Field(None, ge=8)
    """Maximum length of the thought in one turn, in tokens, in training and in evaluation. At this length,
    chat.thought_end ends the thought, and the response continues. null: no separate limit."""
    max_model_len: int | None = Field(None, ge=2)
    """Maximum length of a conversation, in tokens; null: the limit of the model, but at most 4096."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Sampling temperature of training rollouts. The learner also divides the logits by it."""
    stop: tuple[str, ...] = ()
    """Strings that end a response, in training and in evaluation. Their tokens are part of the response."""
    env_workers: int = Field(8, ge=1)
    """Maximum number of concurrent calls to reset and step."""
    env_isolation: Literal["auto", "thread", "process"] = "auto"
    """Where environments run. auto: on threads, unless an environment asks for a process. thread: on threads
    of one process. process: each in its own process, so native code that hangs or crashes affects only that
    process."""
    workers: int = Field(0, ge=0)
    """Number of processes that run the training episodes, each with its own pool of environments; 0: the
    process of the run itself runs them."""
    env_time_limit: float = Field(300.0, gt=0)
    """Time limit of one reset or step, in seconds. A call that takes longer fails."""
    max_retries: int = Field(2, ge=0)
    """Maximum number of times that areal repeats an episode that failed for infrastructure reasons."""
    max_failures: int = Field(8, ge=0)
    """Number of consecutive groups that the run may discard because an episode failed in all its attempts. If
    there are more, the run stops with the error."""

    @model_validator(mode="before")
    @classmethod
    def _whole_distribution(cls, data: Any) -> Any:
        """Refuse truncated sampling: the learner's log-probabilities are those of the full softmax."""
        for name in ("top_p", "top_k", "min_p") if isinstance(data, dict) else ():
            if name in data:
                raise ValueError(
                    f"training cannot sample with {name}, because the learner computes log-probabilities of "
                    f"the full distribution; lower rollout.temperature instead, or set evaluation.{name} for "
                    "evaluation"
                )
        return data

    @field_validator("stop")
    @classmethod
    def _stop_says_something(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every response immediately; remove it")
        return stop


class EngineConfig(Settings):
    """The vLLM engine."""

    threads: int | None = Field(None, ge=1)
    """Number of CPU threads of all engines together on a machine without a GPU; null: half of the cores."""
    memory: float | None = Field(None, gt=0)
    """Size of the KV cache, in GiB on a CPU, or as a share of the memory of the GPU; null: 1 GiB on a CPU,
    the memory plan of docs/gpu.md on a GPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights and of the computation; auto: float32 on a CPU, bfloat16 on a GPU."""
    quantization: Literal["fp8"] | None = None
    """Data type of the weights of linear layers and experts. null: engine.dtype. fp8: vLLM rounds them to FP8
    at the start and at each update, on GPUs of compute capability 8.9 or more (docs/gpu.md)."""
    eager: bool | None = None
    """Run without compilation and CUDA graphs; null: true on a CPU, false on a GPU."""
    count: int | None = Field(None, ge=1)
    """Number of engines; null: one on each GPU that the learner does not use. If there is no such GPU, or if
    engine.gpu is set, one GPU gets one engine, or two if one cannot keep it busy (docs/gpu.md)."""
    tensor_parallel: int = Field(1, ge=1)
    """Number of GPUs (on a CPU, processes) that share the weights and the KV cache of one engine. It must
    divide the number of attention heads (docs/gpu.md)."""
    gpu: int | None = Field(None, ge=0)
    """Index of the first engine's GPU. Further engines use the next GPUs, and GPU 0 again after the last one.
    GPU 0 is the learner's first GPU. null: a GPU that the learner does not use, if there is one."""
    swap: Literal["together", "in_turn"] = "together"
    """How several engines load new weights. together: at the same time. in_turn: one after another, while the
    others generate (docs/cluster.md)."""

    @model_validator(mode="after")
    def _quantizes_16_bits(self) -> EngineConfig:
        if self.quantization is not None and self.dtype == "float32":
            raise ValueError(
                f"engine.quantization={self.quantization} requires a data type of 16 bits; remove "
                "engine.dtype=float32 or engine.quantization"
            )
        return self


class ChatConfig(Settings):
    """How conversations begin, in training and in evaluation. Programs (agent=program) begin their own."""

    system: str | None = None
    """System message that replaces the one in the data; null: the one in the data, if there is one."""
    examples: tuple[dict[str, str], ...] = ()
    """Few-shot examples before the problem: alternating user and assistant messages (role, content)."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Additional arguments for the chat template, such as enable_thinking: false."""
    keep_thoughts: bool = False
    """Keep the thoughts of earlier turns in the conversation, even if the chat template drops them."""
    thought_end: str = THOUGHT_END
    """Text that ends a thought that has used up rollout.thinking_budget. It must contain </think>."""

    @field_validator("examples")
    @classmethod
    def _in_turn(cls, examples: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        wanted = itertools.cycle(("user", "assistant"))
        if len(examples) % 2 or any(
            set(message) != {"role", "content"} or message["role"] != role
            for message, role in zip(examples, wanted, strict=False)
        ):
            raise ValueError(
                "the examples are not pairs of messages; alternate {role: user, content: …} and {role: "
                "assistant, content: …}"
            )
        return examples

    @field_validator("thought_end")
    @classmethod
    def _ends_thoughts(cls, text: str) -> str:
        if text.count(CLOSE) != 1:
            raise ValueError(f"this text does not end a thought; it must contain {CLOSE} exactly once")
        return text

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in ("messages", "tools", "tokenize", "add_generation_prompt", "continue_final_message"):
            if name in kwargs:
                raise ValueError(f"areal itself passes {name} to the chat template; remove it")
        return kwargs


class LearnerConfig(Objective):
    """The update. The preset ``objective`` determines the objective's settings that are null
    (docs/objectives.md)."""

    critic_learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of the critic, for advantage=gae."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(5, ge=0)
    """Number of updates over which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay, for matrices only."""
    betas: tuple[Moment, Moment] = (0.9, 0.95)
    """AdamW's decay rates for its moments."""
    grad_clip: float = Field(1.0, gt=0)
    """Maximum norm of the gradient; larger gradients are scaled down."""
    minibatches: int = Field(2, ge=1)
    """Number of optimizer steps in one update, each on an equal part of the batch."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Maximum number of tokens in one forward and backward pass; null: 32768 on a GPU with enough memory,
    16384 on other GPUs, 4096 on a CPU."""
    processes: int = Field(1, ge=1)
    """Number of processes that share the work and the memory of the learner, each on its own GPU, starting
    with GPU 0 (docs/gpu.md)."""
    replicas: int = Field(1, ge=1)
    """Number of copies of the weights and the optimizer state, each sharded over processes / replicas (HSDP).
    If each copy is within one host, only gradients cross hosts. 1: one copy, sharded over all processes
    (FSDP)."""
    threads: int | None = Field(None, ge=1)
    """Number of CPU threads of all learner processes together on a machine without a GPU; null: half of the
    cores."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the computation; auto: float32 on a CPU, bfloat16 on a GPU. Trained weights and
    optimizer state are float32."""
    max_mismatch: Bound | None = Field(None, gt=0)
    """Mean difference between the log-probabilities of the engine and the learner (mismatch/logprob) above
    which the run stops. inf: no limit. null: 0.5 in 16 bits; in float32, 0.01 on a CPU and 0.2 on a GPU."""
    lora_rank: int = Field(0, ge=0)
    """Train an adapter of this rank instead of the weights (docs/lora.md); 0: train all weights."""
    lora_options: LoraOptions = Field(default_factory=LoraOptions)
    """Other options of the adapter, named as in peft: lora_alpha, use_rslora, target_modules, rank_pattern,
    alpha_pattern (docs/lora.md)."""
    base_precision: Literal["auto", "nf4"] = "auto"
    """Data type of the frozen weights of an adapter's base. auto: learner.dtype. nf4: 4 bits (QLoRA,
    docs/lora.md)."""
    router_replay: bool = False
    """In a mixture of experts, route each token in the learner to the experts to which the engine routed it
    (R3, docs/objectives.md)."""
    activation_checkpointing: bool | None = None
    """Store only the input of each layer for the backward pass and recompute the rest. Updates take a fifth
    longer but use much less memory. null: only on a GPU that is too small without it (docs/gpu.md)."""
    compile: bool | None = None
    """Compile the layers with torch.compile. This takes up to a minute while the engine starts. null: true on
    a GPU, false on a CPU."""

    @model_validator(mode="after")
    def _of_an_adapter(self) -> LearnerConfig:
        for name, given in (("lora_options", self.lora_options), ("base_precision", self.base_precision)):
            if not self.lora_rank and given not in ({}, "auto"):
                raise ValueError(f"{name} applies only to an adapter; also set lora_rank")
        if self.lora_options.get("use_rslora") and "lora_alpha" not in self.lora_options:
            raise ValueError("lora_options.use_rslora scales by lora_alpha/√rank; also set lora_alpha")
        return self


class EvaluationConfig(Settings):
    """Evaluation on held-out problems, before, after and at regular intervals during training."""

    problems: int = Field(256, ge=0)
    """Number of problems of the test split; 0: no evaluation."""
    samples: int = Field(1, ge=1)
    """Number of responses to each problem."""
    every: int = Field(0, ge=0)
    """Number of updates between two evaluations; 0: evaluate only before and after training."""
    temperature: float = Field(1.0, ge=0, le=2)
    """Sampling temperature; 0: greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have at least this probability; 1: from all tokens."""
    top_k: int = Field(0, ge=0)
    """Sample from this number of most likely tokens; 0: from all tokens."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Sample from the tokens whose probability is at least this share of the highest probability; 0: from all
    tokens."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Maximum length of the response in one turn, in tokens; null: rollout.max_new_tokens."""


class CheckpointConfig(Settings):
    """Checkpoints, from which a stopped run resumes."""

    every: int = Field(25, ge=0)
    """Number of updates between two checkpoints; 0: save one only when the run ends or is stopped."""
    keep: int = Field(2, ge=1)
    """Number of checkpoints to keep."""


class RayConfig(Settings):
    """The hosts of a Ray cluster, with placement=ray (docs/cluster.md)."""

    address: str = "auto"
    """host:port of the cluster's head node; auto: the cluster that this host belongs to."""
    hosts: int | None = Field(None, ge=1)
    """Number of hosts that the run reserves as a whole; null: all hosts with a GPU, or all hosts if none has
    one."""
    grow: int = Field(0, ge=0)
    """Maximum number of hosts that the run adds for engines when they join the cluster later. A host that
    replaces a lost one does not count."""
    cpu_hosts: int = Field(0, ge=0)
    """Number of hosts without a GPU that the run reserves in addition, for the processes of
    rollout.workers."""
    interface: str | None = None
    """Network interface through which the hosts communicate, such as eth1; null: the one that Ray uses."""


class RunConfig(Settings):
    """Fault tolerance (docs/standstill.md)."""

    stall_limit: float = Field(300.0, ge=0)
    """Seconds without progress after which a run or one of its parts counts as frozen and is ended, with a
    report. A worker counts as frozen after a tenth of this time without a heartbeat. 0: no limit."""
    max_restarts: int = Field(3, ge=0)
    """Maximum number of times within an hour that areal restarts each lost engine, or the lost learner; 0:
    never."""


class Config(Settings):
    """One training run."""

    env: str = "math-v1"
    """The environment: an id, path/to/file.py:Class, a YAML file, or the folder of a package
    (docs/environments.md)."""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the environment; `areal env show` lists them."""
    agent: str = "single-turn"
    """How the model acts in the environment: a registered name, or path/to/file.py:Name (docs/agents.md)."""
    agent_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the agent."""
    model: str = STARTER
    """A hub id, a folder, or 'starter', the model that ships with areal."""
    recipe: str | None = None
    """Name of the recipe: predefined settings to start from (`--recipe list`, docs/recipes.md). null: for
    models of 50 million parameters or more, the size of the model and the GPUs decide; smaller models get no
    recipe. none: no recipe."""
    steps: int = Field(100, ge=1)
    """Number of updates."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Random seed for the order of the problems and for sampling. With max_staleness=0 on a CPU, it also
    seeds each request (docs/staleness.md)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the learner and the engines; auto: the GPU if there is one."""
    placement: Literal["local", "ray"] = "local"
    """Where the learner and the engines run. local: on this machine. ray: on the hosts of a Ray cluster
    (docs/cluster.md)."""
    output: Path = Path("runs")
    """Folder in which the run directory is created."""
    name: str | None = None
    """Name of the run directory; null: environment, model and time."""
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that also log the run, such as [wandb, tensorboard] (docs/trackers.md)."""
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
                f"rollout.batch_size={r.batch_size} is not a multiple of rollout.group_size={r.group_size}; "
                "change one of them"
            )
        if r.group_size == 1 and self.learner.compares_groups:
            raise ValueError(
                f"learner.advantage={self.learner.advantage} compares the rewards in a group, but "
                "rollout.group_size=1 leaves only one; increase it, or set learner.advantage to "
                "global-normalized or gae"
            )
        if self.learner.turn_discount is not None and self.learner.advantage == "gae":
            raise ValueError(
                "learner.turn_discount does not apply to learner.advantage=gae; set learner.gamma instead"
            )
        if self.learner.processes > 1 and self.learner.advantage == "gae":
            raise ValueError(
                f"learner.advantage=gae trains its critic in one process, but learner.processes="
                f"{self.learner.processes}; set it to 1, or choose another advantage"
            )
        if self.learner.processes % self.learner.replicas:
            raise ValueError(
                f"learner.replicas={self.learner.replicas} does not divide learner.processes="
                f"{self.learner.processes}, but each replica is sharded over the same number of processes; "
                "set it to 1 or to another divisor"
            )
        groups = r.batch_size // r.group_size
        if groups % self.learner.minibatches:
            raise ValueError(
                f"learner.minibatches={self.learner.minibatches} does not divide the {groups} groups of a "
                f"batch (rollout.batch_size / rollout.group_size); set it to a divisor"
            )
        if not math.isinf(r.max_staleness) and r.max_staleness != int(r.max_staleness):
            raise ValueError(
                f"rollout.max_staleness={r.max_staleness} is not a whole number; give one, or inf"
            )
        return self

    @property
    def groups_per_batch(self) -> int:
        """The number of groups in one update (B)."""
        return self.rollout.batch_size // self.rollout.group_size
