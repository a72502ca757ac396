"""Train the starter model: a tokenizer and a transformer of about a million parameters, from scratch.

    python scripts/train_starter.py --output areal/models/starter

The data are solutions of ``math-v1`` problems, drawn from the training split of ``areal.envs.arithmetic``; no
problem of the test split is among them. Every label is correct. Most of the training teaches worked
solutions; its last part mixes in bare answers, so that the model learns both manners. It is good at the
first and poor at the second, and by itself it chooses the second too often: what reinforcement learning then
finds first is that working a problem out pays, and after that better arithmetic.

The output folder holds what ``transformers`` and vLLM load unchanged.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from areal.envs.arithmetic import DIFFICULTIES, Problem, is_test, problem
from areal.envs.math import arithmetic_prompt

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant", "tool")
SPECIAL_TOKENS = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
VOCABULARY = 384
CONTEXT = 1024
MIXTURE = {1: 0.1, 2: 0.3, 3: 0.54, 4: 0.03, 5: 0.03}
"""Share of each difficulty in the training data."""
DIRECT, DIRECT_FROM = 0.5, 0.7
"""Share of the examples that state the answer at once, in the steps after this share of the training."""

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

# Everyday phrases, so that feedback and instructions other than the one prompt do not fall into single bytes.
PHRASES = (
    "You are a helpful assistant.",
    "The answer is not correct. Try again and put the final answer in the box.",
    "That is wrong. What is the result of the expression?",
    "Correct. Next, solve this problem step by step and give the answer.",
)


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; figures vary a little with it")
    parser.add_argument(
        "--problems", type=int, default=512, help="test problems of each difficulty to measure"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    tokenizer = build_tokenizer(arguments.seed)
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    started = time.monotonic()
    train(model, tokenizer, arguments.steps, arguments.batch_size, arguments.learning_rate, arguments.seed)
    seconds = time.monotonic() - started
    save(model, tokenizer, arguments.output)
    print(f"trained in {seconds:.0f} s; saved to {arguments.output}")

    figures = {d: measure(model, tokenizer, d, arguments.problems, arguments.seed) for d in DIFFICULTIES}
    for difficulty, row in figures.items():
        print(f"difficulty {difficulty}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
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
    stream = draw(random.Random(seed))
    texts = [
        text
        for _ in range(2000)
        for p in [next(stream)]
        for text in (arithmetic_prompt(p.expression), answer(p, direct=False))
    ]
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


def answer(drawn: Problem, direct: bool) -> str:
    r"""Return the worked solution, such as ``47 + 38 = 85\n85 - 21 = 64\n\boxed{64}``, or the box alone."""
    return "\n".join([*(() if direct else drawn.steps), f"\\boxed{{{drawn.answer}}}"])


def draw(rng: random.Random) -> Iterator[Problem]:
    """Yield training problems for ever, mixed as in ``MIXTURE``."""
    counts = dict.fromkeys(MIXTURE, 0)
    while True:
        difficulty = rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
        drawn = problem("train", difficulty, counts[difficulty])
        counts[difficulty] += 1
        if is_test(drawn.expression):
            raise AssertionError(f"{drawn.expression} is a test problem")
        yield drawn


def batches(
    tokenizer: PreTrainedTokenizerFast, steps: int, size: int, seed: int
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Yield ``steps`` batches, each as micro-batches ``(input_ids, labels)``; only the answer is a label.

    Rows are padded on the right. Short and long examples go into different micro-batches, which saves a third
    of the padding.
    """
    rng = random.Random(seed)
    stream = draw(rng)
    for step in range(steps):
        share = DIRECT if step >= DIRECT_FROM * steps else 0.0
        drawn = [next(stream) for _ in range(size)]
        prompts = tokenizer([prompt(tokenizer, p) for p in drawn])["input_ids"]
        answers = tokenizer([answer(p, rng.random() < share) + END for p in drawn])["input_ids"]
        rows = sorted(zip(prompts, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        half = size // 2
        yield [pad(part, tokenizer.pad_token_id) for part in (rows[:half], rows[half:]) if part]


def pad(rows: list[tuple[list[int], list[int]]], token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``(input_ids, labels)`` of the (prompt, answer) rows, padded on the right."""
    width = max(len(p) + len(a) for p, a in rows)
    input_ids = torch.full((len(rows), width), token)
    labels = torch.full((len(rows), width), -100)
    for row, (p, a) in enumerate(rows):
        input_ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return input_ids, labels


def prompt(tokenizer: PreTrainedTokenizerFast, drawn: Problem) -> str:
    """Return what the model reads before it answers: one user turn in the chat template."""
    turn = {"role": "user", "content": arithmetic_prompt(drawn.expression)}
    return tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)


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


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, size: int, peak: float, seed: int
) -> None:
    """Run ``steps`` updates of AdamW: linear warm-up, then cosine decay to a thirtieth of ``peak``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup), eta_min=peak / 30),
        ],
        milestones=[warmup],
    )
    model.train()
    started = time.monotonic()
    for step, batch in enumerate(batches(tokenizer, steps, size, seed), start=1):
        count = sum(int((labels != -100).sum()) for _, labels in batch)
        loss = 0.0
        for input_ids, labels in batch:
            # Padding lies behind every label, so the causal mask alone hides it.
            part = model(input_ids=input_ids, labels=labels, num_items_in_batch=count).loss
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    model.eval()


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
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, difficulty: int, problems: int, seed: int
) -> dict[str, float]:
    """Measure on the test split: one sample, any of 8 samples, the greedy answer, the format, lengths."""
    drawn = [problem("test", difficulty, index) for index in range(problems)]
    torch.manual_seed(seed)
    right, formatted, worked, tokens = [], [], [], []
    for _ in range(8):
        for p, ids in zip(drawn, generate(model, tokenizer, drawn, sample=True), strict=True):
            boxed = final_answer(tokenizer, ids)
            right.append(boxed == str(p.answer))
            formatted.append(boxed is not None)
            worked.append("=" in tokenizer.decode(ids))
            tokens.append(len(ids))
    greedy = [
        final_answer(tokenizer, ids) == str(p.answer)
        for p, ids in zip(drawn, generate(model, tokenizer, drawn, sample=False), strict=True)
    ]
    by_sample = torch.tensor(right, dtype=torch.float).view(8, problems)
    return {
        "avg@1": by_sample.mean().item(),
        "pass@8": by_sample.amax(0).mean().item(),
        "greedy": sum(greedy) / problems,
        "format": sum(formatted) / len(formatted),
        "worked": sum(worked) / len(worked),
        "right if worked": sum(r for r, w in zip(right, worked, strict=True) if w) / max(1, sum(worked)),
        "prompt tokens": sum(len(tokenizer(prompt(tokenizer, p))["input_ids"]) for p in drawn) / problems,
        "answer tokens": sum(tokens) / len(tokens),
    }


@torch.no_grad()
def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, drawn: list[Problem], *, sample: bool
) -> list[list[int]]:
    """Return one answer's ids for each problem, up to and including the end token (at most 64)."""
    inputs = tokenizer(
        [prompt(tokenizer, p) for p in drawn], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    if not sample:
        options = {"temperature": None, "top_k": None, "top_p": None}
    output = model.generate(**inputs, do_sample=sample, max_new_tokens=64, **options)
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def final_answer(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str | None:
    r"""Return the content of the last ``\boxed{}`` of an answer that ends with the end token, else None."""
    if not ids or ids[-1] != tokenizer.eos_token_id:
        return None
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", tokenizer.decode(ids))
    return boxes[-1].strip() if boxes else None


def model_card(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    figures: dict[int, dict[str, float]],
    arguments: argparse.Namespace,
    seconds: float,
) -> str:
    """Return the README of the model's folder."""
    columns = ("avg@1", "pass@8", "greedy", "format", "worked", "right if worked")
    rows = "\n".join(
        f"| {d} | {DIFFICULTIES[d]} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |"
        for d, row in figures.items()
    )
    default = figures[3]
    parameters = sum(p.numel() for p in model.parameters())
    size, minutes = arguments.batch_size, seconds / 60
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [reinforcement-learning, arithmetic]
---

# starter

The model that ships with areal, so that `areal train --env math-v1` runs with no download: a Llama of
{parameters:,} parameters (fp32, tied embeddings) with a byte-level tokenizer of {len(tokenizer)} tokens, in
which every digit is a token. It does the arithmetic of `math-v1` in its chat template, badly on purpose, and
nothing else.

Made from scratch by `python scripts/train_starter.py --output areal/models/starter` on solutions of training
problems of `envs/arithmetic.py`: {arguments.steps} steps of {size} examples, {minutes:.1f} minutes on
{arguments.threads} CPU threads. In the last {1 - DIRECT_FROM:.0%} of the steps, {DIRECT:.0%} of the examples
state the answer at once; all others work it out first, as in `47 + 38 = 85`, `85 - 21 = 64`, `\\boxed{{64}}`.
The model is far better at the second than at the first, and does it too seldom: reinforcement learning finds
that out.

Every label is correct. No problem of the test split was in the data, and no other data were used; a worked
step inside a solution may be the expression of an easier test problem.

Measured on {arguments.problems} test problems of each difficulty, at temperature 1.0, 8 samples each:

| difficulty | problems | {" | ".join(columns)} |
|---|---|{"---|" * len(columns)}
{rows}

*format*: the answer has a `\\boxed{{}}` and ends with the end token. *worked*: it has steps. At difficulty 3
a prompt has {default["prompt tokens"]:.0f} tokens and an answer {default["answer tokens"]:.0f} on average.

License: Apache-2.0.
"""


if __name__ == "__main__":
    main()
