r"""Train the starter model: a tokenizer and a transformer of about a million parameters, from scratch.

In two stages, first on arithmetic alone, then on programs as well:

    python scripts/train_starter.py --output FIRST --steps 2400 --batch-size 128
    python scripts/train_starter.py --output areal/models/starter --start FIRST --programs 0.6 --steps 500 \
        --learning-rate 1.5e-3

The data are solutions of the procedural problems of ``math-v1`` and ``code-v1``, drawn from the training
splits of ``areal.envs.arithmetic`` and ``areal.envs.programs``; no problem of a test split is among them.
Most of the training teaches worked solutions and right programs. Its last part mixes in *lapses*: bare
answers, which are right but hard to give, and programs with a slip, as people write them. The model learns
both manners, and by itself it lapses too often: what reinforcement learning finds first is that working a
problem out pays, and which of the forms it knows are right; after that, better arithmetic.

A third stage, which the model that ships has not gone through, teaches the manners of agents: to run Python
and to read what came of it (``python-tool``), and to play ``guess-v1``, both clumsily:

    python scripts/train_starter.py --output runs/starter-agents --start areal/models/starter \
        --programs 0.2 --agents 0.7 --steps 200 --learning-rate 1e-3

A fourth one teaches, as clumsily, the tool calls of ``tool-use``, in a chat template that names the tools:

    python scripts/train_starter.py --output runs/starter-tools --start runs/starter-agents \
        --tools 0.8 --steps 120 --batch-size 112 --learning-rate 1e-3

With ``--checkpoint FILE --stop-after SECONDS`` the training goes in pieces: the same command goes on where
the last one stopped, to the same model. The output folder holds what ``transformers`` and vLLM load.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from areal.agents.calculator import calculator
from areal.agents.python_tool import HINT
from areal.agents.tools import schema
from areal.envs import arithmetic, guess, programs
from areal.envs.code import fenced, program_prompt
from areal.envs.math import arithmetic_prompt
from areal.envs.procedural import is_test
from areal.rewards.answers import boxed_answer

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
VOCABULARY = 512
CONTEXT = 1024
ARITHMETIC = {1: 0.1, 2: 0.3, 3: 0.54, 4: 0.03, 5: 0.03}
"""Share of each difficulty in the arithmetic."""
PROGRAMS = {3: 0.9, 4: 0.1}
"""Share of each difficulty in the programs."""
TOOL_PROBLEMS = {3: 0.2, 4: 0.4, 5: 0.4}
"""Share of each difficulty in the problems that Python or a calculator solves."""
LAPSES, LAPSES_FROM = {"math": 0.5, "code": 0.6, "python": 0.8, "guess": 0.5, "call": 0.7}, 0.7
"""Share of the examples that lapse, in the steps after this share of all."""

# Every turn is <|role|>content<|end|> and a newline. The role is one special token, so no merge reaches over
# the border of a turn, and a longer conversation's ids begin with the ids of the shorter one.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

# The same where tools are named, before the first turn; a call is as `areal.rollout.tools.formats` reads it.
TOOLS_TEMPLATE = (
    "{%- if tools -%}"
    "{{- '<|system|>' -}}"
    "{%- for tool in tools -%}"
    "{{- tool['function']['name'] + '(' -}}"
    "{{- tool['function']['parameters']['properties'] | join(', ') + ')\\n' -}}"
    "{%- endfor -%}"
    "{{- '<|end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{{- '<tool_call>' + call['function'] | tojson + '</tool_call>' -}}"
    "{%- endfor -%}"
    "{{- '<|end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

# Everyday phrases, so that feedback and instructions other than the one prompt do not fall into single bytes.
PHRASES = (
    "You are a helpful assistant.",
    "The answer is not correct. Try again and put the final answer in the box.",
    "That is wrong. What is the result of the expression?",
    "Correct. Next, solve this problem step by step and give the answer.",
)


@dataclass(frozen=True, slots=True)
class Example:
    """What the model is asked, its answer, and the answer when it lapses.

    ``before``: earlier turns, of the user and of the model. ``role``: who asks. ``tools``: that it may call.
    """

    question: str
    answer: str
    lapse: str
    before: tuple[str, ...] = ()
    role: str = "user"
    tools: bool = False


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=144)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; figures vary a little with it")
    parser.add_argument("--programs", type=float, default=0.0, help="share of programs among the examples")
    parser.add_argument("--agents", type=float, default=0.0, help="share of agents' turns among the examples")
    parser.add_argument("--tools", type=float, default=0.0, help="share of tool calls among the examples")
    parser.add_argument("--start", type=Path, help="folder of a starter of before, to go on from")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from, and to stop in")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds; needs --checkpoint")
    parser.add_argument(
        "--problems", type=int, default=512, help="test problems of each difficulty to measure; 0: none"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    tokenizer = build_tokenizer(arguments.seed)
    if arguments.tools:
        tokenizer.chat_template = TOOLS_TEMPLATE
    model = build_model(tokenizer)
    if arguments.start is not None:
        adopt(model, tokenizer, arguments.start)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    seconds = train(model, tokenizer, arguments)
    if seconds is None:
        print(f"stopped in {arguments.checkpoint}; the same command goes on")
        return
    save(model, tokenizer, arguments.output)
    print(f"trained in {seconds:.0f} s; saved to {arguments.output}")

    if not arguments.problems:
        return
    figures = {
        (env, difficulty): measure(model, tokenizer, env, difficulty, arguments.problems, arguments.seed)
        for env, difficulties in (("math", arithmetic.DIFFICULTIES), ("code", programs.DIFFICULTIES))
        for difficulty in difficulties
    }
    for (env, difficulty), row in figures.items():
        print(f"{env} {difficulty}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    card = model_card(model, tokenizer, figures, arguments, seconds)
    (arguments.output / "README.md").write_text(card, encoding="utf-8")


# --- the tokenizer ---------------------------------------------------------------------------------------


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    # Merges stop at digits only: " + " and the whole instruction become one token each.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    drawn = [example for step in range(20) for example, _ in draw(seed, step, 200, 0.0, 0.4)]
    texts = [text for example in drawn for text in (example.question, example.answer, example.lapse)]
    tokenizer.train_from_iterator([*texts, *PHRASES * 20], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )


# --- the data --------------------------------------------------------------------------------------------


def arithmetic_example(difficulty: int, index: int, split: str = "train") -> tuple[Example, str]:
    r"""Return an example and its key: ``47 + 38 = 85\n\boxed{85}``, or as a lapse the box alone."""
    drawn = arithmetic.problem(split, difficulty, index)
    box = f"\\boxed{{{drawn.answer}}}"
    return Example(arithmetic_prompt(drawn.expression), "\n".join([*drawn.steps, box]), box), drawn.expression


def program_example(
    difficulty: int, index: int, rng: random.Random, split: str = "train"
) -> tuple[Example, str]:
    """Return an example and its key: a right program, or as a lapse one with a slip."""
    drawn = programs.problem(split, difficulty, index)
    right, wrong = (fenced(programs.program(e)) for e in (drawn.right, rng.choice(drawn.slips)))
    return Example(program_prompt(drawn.text), right, wrong), drawn.task


def solved_example(kind: str, index: int, rng: random.Random, lapses: float) -> tuple[Example, bool]:
    """Return a turn in which ``python`` or a tool (``call``) solves a problem, with whether it lapses.

    It is the code or the call, or as a lapse a bare answer; or the answer to what came of it.
    """
    difficulty = rng.choices(list(TOOL_PROBLEMS), weights=list(TOOL_PROBLEMS.values()))[0]
    drawn = arithmetic.problem("train", difficulty, index)
    check_trained_on(drawn.expression)
    question, box, tools = arithmetic_prompt(drawn.expression), f"\\boxed{{{drawn.answer}}}", kind == "call"
    if tools:
        call = json.dumps({"name": calculator.__name__, "arguments": {"expression": drawn.expression}})
        asked, result, role = f"<tool_call>{call}</tool_call>", calculator(drawn.expression), "tool"
    else:
        question += HINT
        asked, result, role = fenced(f"{drawn.expression}\n"), str(drawn.answer), "user"
    example = Example(question, asked, box, tools=tools)
    if rng.random() >= 0.5:
        example = Example(result, box, box, (question, asked), role, tools)
    return example, rng.random() < lapses * LAPSES[kind]


def guess_example(rng: random.Random) -> Example:
    """Return a turn of guess-v1: a number that is still possible, or as a lapse any of the range."""
    size = rng.choice([8, 16, 32])
    low = rng.randint(1, guess.HIGHEST - size + 1)
    high, turns = low + size - 1, []
    number, possible = rng.randint(low, high), range(low, low + size)
    said = guess.opening(low, high)
    for _ in range(rng.randrange(4)):
        tried = rng.choice(possible if rng.random() < 0.5 else range(low, high + 1))
        if tried == number:
            break
        turns += [said, f"\\boxed{{{tried}}}"]
        said = guess.feedback(tried, number)
        above = range(max(possible.start, tried + 1), possible.stop)
        possible = above if number > tried else range(possible.start, min(possible.stop, tried))
    answer, lapse = (f"\\boxed{{{rng.choice(of)}}}" for of in (possible, range(low, high + 1)))
    return Example(said, answer, lapse, tuple(turns))


def draw(
    seed: int,
    step: int,
    size: int,
    lapses: float,
    programs_share: float,
    agents_share: float = 0.0,
    tools_share: float = 0.0,
) -> Iterator[tuple[Example, bool]]:
    """Yield the training examples of a step, each with whether it lapses; ``lapses`` scales ``LAPSES``."""
    rng = random.Random(f"{seed}/{step}")
    for index in range(step * size, (step + 1) * size):
        if tools_share and rng.random() < tools_share:
            yield solved_example("call", index, rng, lapses)
            continue
        if agents_share and rng.random() < agents_share:
            yield agents_example(index, rng, lapses)
            continue
        env = "code" if rng.random() < programs_share else "math"
        shares = PROGRAMS if env == "code" else ARITHMETIC
        difficulty = rng.choices(list(shares), weights=list(shares.values()))[0]
        if env == "code":
            example, key = program_example(difficulty, index, rng)
        else:
            example, key = arithmetic_example(difficulty, index)
        check_trained_on(key)
        yield example, rng.random() < lapses * LAPSES[env]


def agents_example(index: int, rng: random.Random, lapses: float) -> tuple[Example, bool]:
    """Return a turn of an agent, with whether it lapses."""
    if rng.random() < 0.5:
        return guess_example(rng), rng.random() < lapses * LAPSES["guess"]
    return solved_example("python", index, rng, lapses)


def check_trained_on(key: str) -> None:
    """Check that a problem, by its key, is none of a test split."""
    if is_test(key):
        raise AssertionError(f"{key} is a test problem")


def batch(
    tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace, step: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return a step's batch as micro-batches ``(input_ids, labels)``; only the response is a label.

    Rows are padded on the right. Short and long examples go into different micro-batches, which saves much
    of the padding.
    """
    size = arguments.batch_size
    lapses = float(step >= LAPSES_FROM * arguments.steps)
    shares = arguments.programs, arguments.agents, arguments.tools
    drawn = list(draw(arguments.seed, step, size, lapses, *shares))
    prompts = tokenizer([prompt(tokenizer, example) for example, _ in drawn])["input_ids"]
    answers = tokenizer([(e.lapse if lapse else e.answer) + END for e, lapse in drawn])["input_ids"]
    rows = sorted(zip(prompts, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
    third = -(-size // 3)
    return [pad(rows[i : i + third], tokenizer.pad_token_id) for i in range(0, size, third)]


def pad(rows: list[tuple[list[int], list[int]]], token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(input_ids, labels)`` of the (prompt, response) rows, padded on the right."""
    width = max(len(p) + len(a) for p, a in rows)
    input_ids = torch.full((len(rows), width), token)
    labels = torch.full((len(rows), width), -100)
    for row, (p, a) in enumerate(rows):
        input_ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return input_ids, labels


def prompt(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    """Return what the model reads before it answers, in the chat template."""
    said = (*example.before, example.question)
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    turns[-1]["role"] = example.role
    tools = [schema(calculator)] if example.tools else None
    return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)


# --- the model -------------------------------------------------------------------------------------------


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained Llama of about 0.9 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    return LlamaForCausalLM(config)


def adopt(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Take over the weights of another starter, whose tokenizer may be a different one.

    A token that it has not got begins as the mean of the tokens that spell it there.
    """
    old = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    spelling = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = old.get_input_embeddings().weight
    embeddings = []
    for token in range(len(tokenizer)):
        name = tokenizer.convert_ids_to_tokens(token)
        known = spelling.get_vocab().get(name)
        ids = spelling.encode(tokenizer.decode([token])) if known is None else [known]
        embeddings.append(rows[ids].mean(0))
    weights = old.state_dict() | {"model.embed_tokens.weight": torch.stack(embeddings)}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace
) -> float | None:
    """Run the updates of AdamW: linear warm-up, then cosine decay to a thirtieth of the peak.

    Returns:
        the seconds that all pieces took; None if the time for this piece was over before the end.
    """
    steps, peak = arguments.steps, arguments.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    first, before = restore(model, optimizer, arguments.checkpoint)
    model.train()
    started = time.monotonic()
    for step in range(first, steps):
        if time.monotonic() - started > arguments.stop_after:
            keep(model, optimizer, arguments.checkpoint, step, before + time.monotonic() - started)
            return None
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule(step, steps)
        loss = update(model, optimizer, batch(tokenizer, arguments, step))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    model.eval()
    return before + time.monotonic() - started


def update(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, parts: list[tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Make one update and return the loss."""
    count = sum(int((labels != -100).sum()) for _, labels in parts)
    loss = 0.0
    for input_ids, labels in parts:
        # Padding lies behind every label, so the causal mask alone hides it.
        part = model(input_ids=input_ids, labels=labels, num_items_in_batch=count).loss
        part.backward()
        loss += part.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def schedule(step: int, steps: int) -> float:
    """Return the learning rate of a step, as a share of the peak."""
    warmup = min(100, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 1 / 30 + (1 - 1 / 30) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def keep(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, path: Path, step: int, seconds: float
) -> None:
    """Write what the training goes on from."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "s": seconds}
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def restore(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, path: Path | None
) -> tuple[int, float]:
    """Load what was kept, if anything was; return the step that comes next and the seconds so far."""
    if path is None or not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["s"]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, configuration, generation defaults and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    # transformers 5 writes its new name of the class, which version 4 does not know; both know this one.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# --- the figures -----------------------------------------------------------------------------------------


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    env: str,
    difficulty: int,
    problems: int,
    seed: int,
) -> dict[str, float]:
    """Measure on the test split: one sample, any of 8 samples, the greedy response, the format, lengths."""
    drawn = [held_out(env, difficulty, index) for index in range(problems)]
    questions = [example for example, _ in drawn]

    def judged(sample: bool) -> list[tuple[bool | None, int]]:
        ids = generate(model, tokenizer, questions, sample=sample)
        return [
            (judge(response_text(tokenizer, row)), len(row))
            for (_, judge), row in zip(drawn, ids, strict=True)
        ]

    torch.manual_seed(seed)
    verdicts, lengths = zip(*(found for _ in range(8) for found in judged(sample=True)), strict=True)
    by_sample = torch.tensor([*map(bool, verdicts)], dtype=torch.float).view(8, problems)
    prompts = tokenizer([prompt(tokenizer, example) for example in questions])["input_ids"]
    return {
        "avg@1": by_sample.mean().item(),
        "pass@8": by_sample.amax(0).mean().item(),
        "greedy": sum(bool(verdict) for verdict, _ in judged(sample=False)) / problems,
        "format": sum(verdict is not None for verdict in verdicts) / len(verdicts),
        "prompt tokens": sum(map(len, prompts)) / problems,
        "response tokens": sum(lengths) / len(lengths),
    }


def held_out(env: str, difficulty: int, index: int) -> tuple[Example, Callable[[str], bool | None]]:
    """Return a test problem, and what judges a response: None is no answer at all.

    A program is judged by its text here: it must be the right expression.
    """
    if env == "math":
        example, _ = arithmetic_example(difficulty, index, "test")
        answer = boxed_answer(example.lapse)
        return example, lambda text: None if (box := boxed_answer(text)) is None else box == answer
    example, _ = program_example(difficulty, index, random.Random(index), "test")
    return example, lambda text: None if not text.endswith("```") else text == example.answer


@torch.no_grad()
def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, drawn: list[Example], *, sample: bool
) -> list[list[int]]:
    """Return one response's ids for each problem, up to and including the end token (at most 64)."""
    inputs = tokenizer(
        [prompt(tokenizer, p) for p in drawn], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if not sample:
        options = dict.fromkeys(options)
    output = model.generate(**inputs, do_sample=sample, max_new_tokens=64, **options)
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def response_text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """Return a response that ends with the end token, without it; else nothing."""
    return tokenizer.decode(ids[:-1]) if ids and ids[-1] == tokenizer.eos_token_id else ""


def model_card(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    figures: dict[tuple[str, int], dict[str, float]],
    arguments: argparse.Namespace,
    seconds: float,
) -> str:
    """Return the README of the model's folder."""
    columns = ("avg@1", "pass@8", "greedy", "format", "prompt tokens", "response tokens")
    names = {"math": arithmetic.DIFFICULTIES, "code": programs.DIFFICULTIES}
    rows = "\n".join(
        f"| `{env}-v1` | {d} | {names[env][d]} | " + " | ".join(f"{row[c]:.3g}" for c in columns) + " |"
        for (env, d), row in figures.items()
    )
    parameters = sum(p.numel() for p in model.parameters())
    size, minutes = arguments.batch_size, seconds / 60
    origin = "from scratch" if arguments.start is None else "from the weights of a starter made before"
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [reinforcement-learning, arithmetic, code]
---

# starter

The model that ships with areal, so that `areal train --env math-v1` and `--env code-v1` run with no download:
a Llama of {parameters:,} parameters (fp32, tied embeddings) with a byte-level tokenizer of {len(tokenizer)}
tokens, in which every digit is a token. It does the procedural problems of `math-v1` and `code-v1` in its
chat template, badly on purpose, and nothing else.

Made by `scripts/train_starter.py` on solutions of training problems of `envs/arithmetic.py` and, in
{arguments.programs:.0%} of the examples, `envs/programs.py`, {origin}:
{arguments.steps} steps of {size} examples, {minutes:.1f} minutes on {arguments.threads} CPU threads. In the
last {1 - LAPSES_FROM:.0%} of the steps, {LAPSES["math"]:.0%} of the arithmetic states the answer at once, and
{LAPSES["code"]:.0%} of the programs have a slip, such as `<` for `<=`; all other arithmetic is worked out, as
in `47 + 38 = 85`, `85 - 21 = 64`, `\\boxed{{64}}`, and all other programs are right. The model can do the
problems far better than it does: reinforcement learning finds that out.

Every number is correct; the programs with a slip are not, and were labels on purpose. No problem of the test
splits was in the data, and no other data were used; a worked step inside a solution may be the expression of
an easier test problem.

Measured on {arguments.problems} test problems of each difficulty, at temperature 1.0, 8 samples each (a
program counts if its text is the right one):

| environment | difficulty | problems | {" | ".join(columns)} |
|---|---|---|{"---|" * len(columns)}
{rows}

*format*: the response has a `\\boxed{{}}` or ends a code block, and ends with the end token.

License: Apache-2.0.
"""


if __name__ == "__main__":
    main()
