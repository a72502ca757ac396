"""Runs for the page, made by the writers that real ones are made by, without training."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from areal.config import parse_config
from areal.evaluation.conversations import Chat, Conversation
from areal.evaluation.episodes import EpisodeOutcome
from areal.evaluation.responses import Header, ResponseFile
from areal.models import load_tokenizer, resolve_model
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.trajectory import Episode, Group, TokenValues, Trajectory

PAYLOADS = (
    "<script>window.hit=1</script>",
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "' autofocus onfocus=window.hit=1 '",
    '<a href="javascript:window.hit=1">here</a>',
    "<details open ontoggle=window.hit=1>",
    '<iframe srcdoc="<script>parent.hit=1</script>"></iframe>',
    "<style>@import 'javascript:window.hit=1'</style>",
    "<math><mtext><img src=x onerror=window.hit=1></mtext></math>",
    "<!--<script>window.hit=1//--></script>",
    "{{constructor.constructor('window.hit=1')()}}${window.hit=1}",
    "javascript:window.hit=1",
    "__proto__",
    "constructor",
)
"""Each sets ``window.hit`` in a page that takes text for more, or breaks one that takes it for a name."""
INVISIBLE = "\x1b[31mred\x1b[0m \u202egnp.exe\u202c zero\u200bwidth"
"""Control characters of terminals, and marks that turn the direction of writing or hide."""
SHOWN = r"\x1b[31mred\x1b[0m \u202egnp.exe\u202c zero\u200bwidth"


@cache
def tokenizer() -> Any:
    return load_tokenizer(resolve_model("starter"))


def ids_of(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def episode(
    prompt: str, turns: list[str], versions: list[int], reward: float, later: str = "Again.", **more: Any
) -> Episode:
    """A conversation of one or several turns; the last half of each response is by the last version."""
    tokens: list[int] = []
    mask: list[bool] = []
    by: list[int] = []
    begins: list[int] = []
    for number, said in enumerate(turns):
        given = ids_of(f"<|user|>{prompt if number == 0 else later}<|end|>\n<|assistant|>")
        sampled = [*ids_of(said), *ids_of("<|end|>")]
        begins.append(len(tokens) + len(given))
        half = (len(sampled) + 1) // 2
        tokens += given + sampled
        mask += [False] * len(given) + [True] * len(sampled)
        by += [-1] * len(given) + [versions[0]] * half + [versions[-1]] * (len(sampled) - half)
    chance = random.Random(len(tokens))
    logprobs = [-(chance.random() ** 6) * 6 if sampled else 0.0 for sampled in mask]
    trajectory = Trajectory(
        np.array(tokens, np.int32),
        np.array(mask),
        np.array(logprobs, np.float32),
        np.array(by, np.int32),
        "eos" if reward else "length",
        begins,
        list(range(len(begins))),
        [0.0] * (len(begins) - 1) + [reward],
    )
    return Episode([trajectory], reward, **{"reward_parts": {"correct": reward}, **more})


START = 1_790_000_000.0
"""When runs begin, in seconds since the epoch."""


def make_run(
    folder: Path, name: str = "run", steps: int = 6, groups: int = 2, **settings: Any
) -> RunDirectory:
    """A run of some updates."""
    config = {"output": folder, "name": name, "steps": 2 * steps, **settings}
    made = RunDirectory.create(parse_config(config))
    for step in range(1, steps + 1):
        add_step(made, step, groups)
    return made


def add_step(run: RunDirectory, step: int, groups: int = 2) -> None:
    """Add an update with groups of four, of which one more is right as the run goes on.

    Of the first rollout of each group the values of its tokens are there.
    """
    made = [arithmetic(step, groups * step + number) for number in range(groups)]
    run.log_token_values(step, (json_line(token_values(group).to_json()) for group in made))
    run.log_rollouts(step, (json_line(group.to_json()) for group in made))
    run.log_metrics({**metrics(step), **times(step)})
    add_events(run, step)
    if step % 3 == 0:
        score = 0.4 + 0.5 * (1 - math.exp(-step / 4))
        run.log_metrics({"step": step, "eval/math-v1/avg@1": score, "eval/math-v1/problems": 256})


def end_of(step: int) -> float:
    """When an update was recorded, in seconds since the epoch."""
    return START + 2.0 * step


def times(step: int) -> dict[str, float]:
    """What says when an update was made, and where the time of its rollouts went."""
    parts = {"episode": 1.0, "model": 0.6, "env": 0.2, "verifier": 0.05, "env_queue": 0.1, "buffer": 0.5}
    return {"time": end_of(step), **{f"latency/{name}": seconds for name, seconds in parts.items()}}


def add_events(run: RunDirectory, step: int, engines: Sequence[str] = ("engine 0", "engine 1")) -> None:
    """Add the events of an update: of the first one also those of the start."""
    if step == 1:
        run.log_event("published", version=0, time=START - 0.5, of_new_learner=True)
        for name in engines:
            run.log_event("loaded", engine=name, version=0, time=START - 0.4, pause=0.05)
    run.log_event("published", version=step, time=end_of(step) - 0.01, seconds=0.04)
    for number, name in enumerate(engines):
        run.log_event("loaded", engine=name, version=step, time=end_of(step) + 0.3 + number / 10, pause=0.1)


def arithmetic(step: int, number: int) -> Group:
    a, b = 10 + number, 3 * step
    right = [(number + i) % 4 < 1 + step // 3 for i in range(4)]
    versions = [max(0, step - 3), step - 1]
    said = [
        f"{a} + {b} = {a + b if good else a - b + i}\n\\boxed{{{a + b if good else a - b + i}}}"
        for i, good in enumerate(right)
    ]
    made = [
        episode(f"Compute {a} + {b}.", [text], versions, float(good), task={"index": number})
        for text, good in zip(said, right, strict=True)
    ]
    return Group(number, max(0, step - 3), made)


def token_values(group: Group) -> TokenValues:
    """Values of all colors, of the group's first rollout."""
    count = group.episodes[0].sampled
    ratio = np.exp(np.linspace(-1, 1, count))
    values = {"advantage": np.linspace(-3, 3, count), "entropy": np.linspace(0, 3, count)}
    return TokenValues(group.id, 1, 0, {**values, "prox/behav": ratio, "theta/prox": np.ones(count)})


def add_formulas(run: RunDirectory, step: int, said: list[str]) -> None:
    """Add an update with a group for each response."""
    made = [
        Group(500 + number, step - 1, [episode("Say it in TeX.", [text], [step - 1], 1.0)])
        for number, text in enumerate(said)
    ]
    run.log_rollouts(step, (json_line(group.to_json()) for group in made))
    run.log_metrics(metrics(step))


def metrics(step: int) -> dict[str, Any]:
    wave = math.sin(step * 1.7) * 0.04
    return {
        "step": step,
        "reward/mean": 0.9 - 0.5 * math.exp(-step / 5) + wave,
        "reward/std": 0.3,
        "policy/entropy": 0.8 * math.exp(-step / 9) + 0.1,
        "policy/kl": 0.001 * step,
        "policy/clip_ratio": 0.01,
        "policy/behav_ratio": 1.0 + wave / 10,
        "staleness/mean": 1.0 + wave,
        "staleness/max": 2.0,
        "throughput/tokens_per_s": 1500 + 2000 * wave,
        "learner/tokens_per_s": 2600 + 900 * wave,
        "time/step": 2.0,
        "time/wait": 0.5 + wave,
        "time/train": 1.4,
        "time/generate": 1.8,
        "overlap": 1.6,
        "lr": 1e-3,
    }


def add_hostile_step(run: RunDirectory, step: int) -> None:
    """Add an update in which everything that others name or write is a payload, and so do events."""
    made = []
    for number, payload in enumerate(PAYLOADS):
        hostile = episode(
            payload,
            [payload, f"<tool_call>{{'name': '{payload}'}}</tool_call> {INVISIBLE}"],
            [step - 1],
            0.0,
            later=f"{payload} {INVISIBLE}",
            env=payload,
            reward_parts={payload: 0.0, "other": 0.0},
            task={payload: payload},
            failure=payload if number % 2 else "",
            expected=payload,
        )
        made.append(Group(1000 + number, step - 1, [hostile]))
    run.log_rollouts(step, (json_line(group.to_json()) for group in made))
    for payload in PAYLOADS:
        run.log_event("loaded", engine=payload, version=step, time=end_of(step), pause=0.1)
        run.log_event("lost", part=payload, cause=f"{payload} {INVISIBLE}", time=end_of(step) + 0.1)
    named = {f"env/{payload}/reward": 0.5 for payload in PAYLOADS}
    parts = {f"reward/{payload}": 0.5 for payload in PAYLOADS}
    run.log_metrics({**metrics(step), **named, **parts, **dict.fromkeys(PAYLOADS, 1.0)})


def add_game(run: RunDirectory, step: int, names: tuple[str, str]) -> None:
    """Add an update of group 50: two games, of which the first player, with the moves 1 and 3, wins one."""
    episodes = []
    for reward in (1.0, -1.0):
        one = episode(f"The card of {names[0]}.", ["I check.", "I call."], [step - 1], reward).trajectories[0]
        other = episode(f"The card of {names[1]}.", ["I bet."], [step - 1], -reward).trajectories[0]
        one.player, other.player = names
        one.calls, other.calls = [0, 2], [1]
        players = {names[0]: reward, names[1]: -reward}
        episodes.append(Episode([one, other], 0.0, {"reward": 0.0}, players=players))
    run.log_rollouts(step, [json_line(Group(50, step - 1, episodes).to_json())])
    run.log_metrics(metrics(step))


def add_cut_thought(run: RunDirectory, step: int, ending: str) -> None:
    """Add an update of group 60: two turns, of which the first one's thought was ended by ``ending``."""
    made = episode("How many?", [f"I wonder{ending}Five.", "Six."], [step - 1], 1.0)
    [said] = made.trajectories
    begin = said.turns[0] + len(ids_of("I wonder"))
    put_in = slice(begin, begin + len(ids_of(ending)))
    said.loss_mask[put_in], said.versions[put_in], said.logprobs[put_in] = False, -1, 0.0
    said.rewards = [0.25, 0.75]
    run.log_rollouts(step, [json_line(Group(60, step - 1, [made]).to_json())])
    run.log_metrics({**metrics(step), "response/thought": 9.0, "response/thought_cut": 0.5})


def make_evaluation(
    folder: Path, name: str, problems: int = 8, samples: int = 2, benchmark: str = "sums", **known: Any
) -> Path:
    """An evaluation of the starter in ``folder/eval/name``, with what was said.

    Args:
        known: ``right``, the chance of each response; ``long``, what a letter costs; ``done``, how many
            responses there are; ``model``, ``temperature``; ``messages``: the model is behind an endpoint;
            ``hostile``: what others name or write is a payload.
    """
    path = folder / "eval" / name
    path.mkdir(parents=True, exist_ok=True)
    model = str(known.get("model", "starter"))
    header = Header(
        benchmark, "math-v1", {"prompt": "{problem}"}, "single-turn", {}, model, problems, samples, 0,
        {"temperature": known.get("temperature", 0.6)}, "problems.jsonl", "digest", of=problems,
    )  # fmt: skip
    file = ResponseFile(path / f"{benchmark}.jsonl", header)
    chance = random.Random(name)
    for number in range(min(problems * samples, known.get("done", problems * samples))):
        problem, sample = divmod(number, samples)
        right = float(chance.random() < known.get("right", 0.5))
        asked = f"Compute {problem} + {problem * 3}."
        answer = f"{problem} + {problem * 3} = \\boxed{{{problem * 4 + int(not right)}}}"
        parts = {"correct": right, "length": 0.0 - len(answer) * known.get("long", 0.0)}
        outcome = EpisodeOutcome("eos" if right else "length", [answer], sum(parts.values()), parts, 9, 0.25)
        if known.get("hostile"):
            payload = PAYLOADS[problem % len(PAYLOADS)]
            asked, answer = f"{payload} {INVISIBLE}", f"{payload} {INVISIBLE}"
            parts = {payload: right}
            failure = payload if number % 2 else ""
            outcome = EpisodeOutcome(payload, [answer], right, parts, 9, 0.25, payload, failure, payload)
        said: list[Conversation] = [
            Chat([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], 1)
            if known.get("messages")
            else episode(asked, [answer], [0], right).trajectories[0]
        ]
        file.write(outcome.response(problem, sample, {"seed": problem}), said)
    return path


def make_record(path: Path, hostile: bool = False) -> Path:
    """Four sessions with the starter, as ``areal serve --record`` keeps them; or one of each payload."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = PAYLOADS if hostile else [str(number) for number in range(4)]
    lines = []
    for number, text in enumerate(texts):
        asked, said = f"The capital of {text}?", f"It is town {text}."
        if hostile:
            asked, said = f"{text} {INVISIBLE}", f"{text} {INVISIBLE}"
        task = {"session": text if hostile else f"task-{number}"}
        found = episode(asked, [said], [0], float(number % 2), task=task)
        if number % 2 and not hostile:
            found.trajectories += episode("Be brief.", ["Yes.", "No."], [0], 1.0).trajectories
            found.trajectories.reverse()
        lines.append(json_line({**Group(number, 0, [found]).to_json(), "model": resolve_model("starter")}))
    path.write_text("".join(lines))
    return path
