"""Checks the guarantees of a run by means of the files in its run directory.

The checker reads only these files. It imports none of areal's code, so that a bug in areal cannot hide itself
here. It requires only Python.

    python benchmarks/check_run.py runs/latest
    python benchmarks/check_run.py runs/latest --journals FOLDER  # copies of journals, made at each kill

The command prints one line for each guarantee, and exits with 1 if one is violated.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from run_files import Files, Record, read_files

Expected = Callable[[Record, list[str]], float]
"""Returns the correct reward of an episode, given its task and its actions."""

_HOUR = 3600.0
_SHOWN = 3
"""Maximum number of violations printed per guarantee. The remaining ones are only counted."""
_INFRASTRUCTURE = ("SIG", "killed", "memory", "frozen", "worker", "engine", "sandbox", "verifier", "refused")
"""Words in the failure of an episode with reward 0 which say that neither a program nor a model caused it."""


class Verdict(NamedTuple):
    """The result of the check of one guarantee.

    Attributes:
        promise: the guarantee, in words.
        checked: what was examined, in words.
        broken: one line for each violation.
    """

    promise: str
    checked: str
    broken: list[str]

    def __str__(self) -> str:
        """Return one line, followed by some of the violations."""
        lines = [f"{'BROKEN' if self.broken else 'ok':<7}{self.promise} ({self.checked})"]
        lines += [f"       {line}" for line in self.broken[:_SHOWN]]
        if len(self.broken) > _SHOWN:
            lines.append(f"       and {len(self.broken) - _SHOWN} more")
        return "\n".join(lines)


def check(files: Files, expected: Expected | None = None) -> list[Verdict]:
    """Return a verdict on each guarantee.

    Args:
        files: the files of the run.
        expected: returns the correct reward of an episode, if the environment is known.
    """
    return [
        staleness(files),
        each_group_once(files),
        each_update_once(files),
        nothing_lost(files),
        loads_verified(files),
        restarts_in_budget(files),
        parts_came_back(files),
        rewards_earned(files, expected),
    ]


def staleness(files: Files) -> Verdict:
    """Check that no token in a training batch is more than η updates old or from a future version."""
    limit = files.config["rollout"]["max_staleness"]
    limit = float("inf") if limit is None else float(limit)
    broken, tokens, worst = list[str](), 0, 0
    for step, group in files.groups:
        now = step - 1
        name = f"group {group['id']} of update {step}"
        versions = [v for e in group["episodes"] for t in e["trajectories"] for v in sampled_versions(t)]
        tokens += len(versions)
        oldest, newest = min(versions, default=now), max(versions, default=now)
        worst = max(worst, now - oldest)
        if now - oldest > limit:
            broken.append(f"{name} has a token of version {oldest}: {now - oldest} updates old, η={limit:g}")
        if newest > now:
            broken.append(f"{name} has a token of version {newest}, which did not exist yet")
        if oldest < group["version"]:
            broken.append(f"{name} was admitted at version {group['version']} but has a token of {oldest}")
    return Verdict("staleness ≤ η", f"{tokens:,} tokens, the oldest {worst} updates old", broken)


def sampled_versions(trajectory: Record) -> list[int]:
    """Return the version of each token that the policy sampled, or -1 where there is none."""
    pairs = zip(trajectory["versions"], trajectory["loss_mask"], strict=True)
    return [version for version, sampled in pairs if sampled]


def each_group_once(files: Files) -> Verdict:
    """Check that no group is trained on twice, and that all batches are complete."""
    updates = defaultdict[int, list[int]](list)
    for step, group in files.groups:
        updates[group["id"]].append(step)
    broken = [
        f"group {number} is in the batches of updates {', '.join(map(str, steps))}"
        for number, steps in updates.items()
        if len(steps) > 1
    ]
    rollout = files.config["rollout"]
    size, members = rollout["batch_size"] // rollout["group_size"], rollout["group_size"]
    for step, groups in sorted(files.batches.items()):
        if len(groups) != size:
            broken.append(f"update {step} has {len(groups)} groups, not {size}")
        broken += [
            f"group {group['id']} has {len(group['episodes'])} episodes, not {members}"
            for group in groups
            if len(group["episodes"]) != members
        ]
    return Verdict("no group is trained twice", f"{len(updates):,} groups", broken)


def each_update_once(files: Files) -> Verdict:
    """Check that each update occurs exactly once in the lineage that counts, and that none is missing."""
    lines = Counter(line["step"] for line in files.metrics if "loss" in line)
    last = max([*lines, *files.batches], default=0)
    broken = [f"update {step} has {n} lines of metrics" for step, n in sorted(lines.items()) if n > 1]
    for step in range(1, last + 1):
        if step not in lines:
            broken.append(f"update {step} has no line of metrics")
        if step not in files.batches:
            broken.append(f"update {step} has no batch")
    return Verdict("each update once, none missing", f"{last} updates, {len(files.starts)} starts", broken)


def nothing_lost(files: Files) -> Verdict:
    """Check that no group is lost that a journal held as finished when the run was killed.

    Such a group must later be consumed, or be rejected or dropped explicitly. A group with a token of an
    unrecorded version belongs to a future that the resumed run replaces. The run generates such a group again
    under the same number. The run drops a group that no batch could take in time.
    """
    consumed = {group["id"]: group for _, group in files.groups}
    last = len(files.journals) - 1
    waiting = (
        files.journals[last].finished if files.journals and files.journals[last].recorded is None else {}
    )
    rejected = set[int]().union(*(journal.rejected for journal in files.journals))
    allowed = {n for event in files.events for n in event.get("dropped", [])}
    broken, seen, again, dropped = list[str](), 0, set[int](), set[int]()
    for journal in files.journals:
        if journal.recorded is None:
            continue
        for number, group in journal.finished.items():
            seen += 1
            later = consumed.get(number, waiting.get(number))
            if _newest(group) > journal.recorded:
                again |= {number} if later != group else set()
            elif later is None and number in allowed:
                dropped.add(number)
            elif later is None and number not in rejected:
                broken.append(f"group {number}, finished in {journal.name}, is neither consumed nor rejected")
            elif later is not None and later != group:
                broken.append(f"group {number}, finished in {journal.name}, was generated again")
    copies = sum(journal.recorded is not None for journal in files.journals)
    text = f"{seen} groups in {copies} journals of killed runs"
    text += _named(again, "were of another future") + _named(dropped, "were dropped at their deadline")
    return Verdict("nothing finished is lost", text, broken)


def _named(groups: set[int], what: str) -> str:
    """Return the numbers of the groups as the rest of a sentence, which is empty if there are none."""
    return f"; {', '.join(map(str, sorted(groups)))} {what}" if groups else ""


def _newest(group: Record) -> int:
    tokens = [v for e in group["episodes"] for t in e["trajectories"] for v in sampled_versions(t)]
    return max([group["version"], *tokens])


def loads_verified(files: Files) -> Verdict:
    """Check that engines loaded the weights that the learner sent, and that each sampling version was sent.

    Engines compare digests before they sample.
    """
    broken, loads, known = list[str](), 0, set[int]()
    digests: dict[int, str] = {}
    newest: dict[str, int] = {}
    for event in files.events:
        if event.get("of_new_learner"):
            digests.clear()
            newest.clear()
        if event["event"] == "restarted":
            newest.pop(event["part"], None)
        if event["event"] not in ("published", "loaded"):
            continue
        loads += event["event"] == "loaded"
        engine, version, digest = (
            str(event.get("engine", "the learner")),
            event["version"],
            event.get("digest"),
        )
        known.add(version)
        if not digest:
            broken.append(f"{engine} has version {version} without a digest")
        elif digests.setdefault(version, digest) != digest:
            broken.append(f"{engine} has version {version} with digest {digest}, not {digests[version]}")
        if version < newest.get(engine, 0):
            broken.append(f"{engine} went back from version {newest[engine]} to {version}")
        newest[engine] = version
    if loads:
        sampled = {v for _, e in files.episodes for t in e["trajectories"] for v in sampled_versions(t)}
        broken += [f"version {v} sampled tokens, but no learner sent it" for v in sorted(sampled - known)]
    else:
        broken.append("the run recorded no load")
    return Verdict("each load of weights is verified", f"{loads} loads", broken)


def restarts_in_budget(files: Files) -> Verdict:
    """Check that no part restarted more often within an hour than ``run.max_restarts`` allows."""
    limit = files.config["run"]["max_restarts"]
    times = defaultdict[str, list[float]](list)
    broken, count = list[str](), 0
    for event in files.events:
        if event["event"] == "resumed":  # by the user, and the budget begins anew
            times.clear()
        if event["event"] != "restarted":
            continue
        count += 1
        past = times[event["part"]]
        past[:] = [then for then in past if then > event["time"] - _HOUR] + [event["time"]]
        if len(past) > limit:
            broken.append(f"{event['part']} was started again {len(past)} times within an hour, not {limit}")
    return Verdict("restarts within the budget", f"{count} restarts, {limit} of a part and hour", broken)


def parts_came_back(files: Files) -> Verdict:
    """Check that each lost part was restarted, or that the run itself was resumed."""
    count = sum(event["event"] == "lost" for event in files.events)
    broken = [f"{part} did not come back: {cause}" for part, cause in not_back(files.events).items()]
    return Verdict("what was lost came back", f"{count} losses", broken)


def not_back(events: Iterable[Record]) -> dict[str, str]:
    """Return the parts that are still lost after these events, each with its cause."""
    lost = dict[str, str]()
    for event in events:
        if event["event"] == "lost":
            lost[event["part"]] = event.get("cause", "")
        elif event["event"] == "restarted":
            lost.pop(event["part"], None)
        elif event["event"] == "resumed":
            lost.clear()
    return lost


def rewards_earned(files: Files, expected: Expected | None) -> Verdict:
    """Check that rewards are correct sums of their parts, and that none is for an infrastructure failure."""
    broken, count = list[str](), 0
    for name, episode in files.episodes:
        count += 1
        reward, parts = episode["reward"], episode["reward_parts"]
        if parts and abs(sum(parts.values()) - reward) > 1e-6:
            broken.append(f"{name}: the reward {reward} is not the sum of {parts}")
        failure = episode["failure"]
        if any(word in failure for word in _INFRASTRUCTURE):
            broken.append(f"{name}: worth {reward} for a failure of the infrastructure: {failure}")
        if expected is not None and not failure:
            worth = expected(episode["task"], episode["actions"])
            if abs(worth - reward) > 1e-6:
                broken.append(f"{name}: rewarded {reward} for {episode['actions']}, which is worth {worth}")
    return Verdict("no reward for a failure of the infrastructure", f"{count:,} episodes", broken)


def main() -> None:
    """Print the verdicts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--journals", type=Path, help="folder with copies of the run's journal")
    given = parser.parse_args()
    sys.exit(show(check(read_files(given.run, given.journals))))


def show(verdicts: Iterable[Verdict]) -> int:
    """Print the verdicts and return 1 if a guarantee is violated, else 0."""
    broken = False
    for verdict in verdicts:
        print(verdict)
        broken |= bool(verdict.broken)
    return int(broken)


if __name__ == "__main__":
    main()
