"""Trains while parts of the run are killed at random, and checks that it keeps its promises all the same.

A run on the model that ships with areal loses a process every so many seconds (``--mean``): an engine, vLLM's
EngineCore, a rank of the learner, a rollout worker, an environment, a sandbox, a worker of the math verifier,
or its own process, after which it is resumed. They are killed, stopped (SIGSTOP), crash (SIGSEGV), or run out
of memory. Each kind and each way comes up about equally often. Afterwards the run is stopped in order, and
check_run.py reads what it has left. With ``--baselines``, it then makes two more updates and ends, and its
accuracy is held against that of undisturbed runs with as many updates.

    python benchmarks/soak.py --minutes 10 --seed 0
    python benchmarks/soak.py --minutes 5 --victims engine,run --ways kill --baselines 0

Prints what was done, how long each recovery took, and a verdict on each promise; exits with 1 if one is
broken. It ends in a time that it says at its beginning; it gives its verdicts also when it is terminated
before. A victim that runs out of memory shares a control group of 64 MiB with a process that allocates
without end. Where control groups cannot be made (as a plain user), it gets no more address space instead.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import check_run
import psutil
from check_run import Verdict
from common import parser, save
from run_files import read_files
from soak_accuracy import compared, undisturbed
from soak_env import worth
from soak_run import PATIENCE, SILENCE, Run
from soak_victims import END, KINDS, SEVERAL, WAYS, Victim, draws, victims

_ABSENT = 20.0
"""Seconds to wait for a victim that is not there: it may just be started."""
_PARTS = {"engine": "engine", "EngineCore": "engine", "learner rank": "learner"}
"""Of which part of the run its events speak when a victim of a kind is lost."""


@dataclass
class Death:
    """One death, and what came of it; all times are in seconds.

    Attributes:
        at: since the first update.
        how: signal, or another cause.
        update: the last update before.
        found: until the run had noticed; None: it does not say.
        back: until another process had its place; None: not in time.
        next_update: until the next update was made; None: not in time.
        own: of ``back``, the start-up of the engine that took the place: from the start of its process on.
    """

    at: float
    kind: str
    name: str
    how: str
    update: int
    found: float | None = None
    back: float | None = None
    next_update: float | None = None
    own: float | None = None


def strike(run: Run, victim: Victim, way: str, began: float) -> Death:
    """End a process, and wait for the recovery."""
    update, family = run.updates, run.family() if victim.kind == "run" else []
    struck, clock = time.monotonic(), time.time()
    death = Death(struck - began, victim.kind, victim.name, "", update)
    try:
        death.how = END[way](victim.process)
    except (psutil.NoSuchProcess, OSError):
        death.how = "had just ended"
    if way == "memory":
        struck, update = time.monotonic(), run.updates  # the bomb took its time

    def elapsed(waited: float | None) -> float | None:
        return None if waited is None else time.monotonic() - struck

    if victim.kind == "run":
        update = run.come_back(family, suspended=way == "stop")
        death.back = elapsed(0.0)
    else:
        death.back = elapsed(run.wait(f"another {victim.kind}", lambda: replaced(run, victim)))
    death.next_update = elapsed(run.wait("an update", lambda: run.updates > update))
    if victim.kind in _PARTS and way != "memory":
        read_times(run, death, clock)
    return death


def replaced(run: Run, victim: Victim) -> bool:
    """Whether a victim is gone and, where it was the only one of its kind, another one has its place."""
    with suppress(psutil.NoSuchProcess):
        if victim.process.status() != psutil.STATUS_ZOMBIE:
            return False
    if victim.kind in SEVERAL:  # others are there, and more are started as they are needed
        return True
    there = victims(run.path, run.process.pid)
    another = any(v.kind == victim.kind and v.process.pid != victim.process.pid for v in there)
    return another and _PARTS.get(victim.kind, "") not in run.missing()


def read_times(run: Run, death: Death, struck: float) -> None:
    """Put down what the run itself says of a death, which is more exact than what is seen from here."""
    times = dict[str, float]()
    for event in run.events(struck):
        if event.get("part", "").startswith(_PARTS[death.kind]):
            times.setdefault(event["event"], event["time"])
    if "lost" in times:
        death.found = times["lost"] - struck
    if "restarted" in times:
        death.back = times["restarted"] - struck
        engines = [v.process for v in victims(run.path, run.process.pid) if v.kind == "engine"]
        if engines and _PARTS[death.kind] == "engine":
            death.own = min(map(age, engines)) - (time.time() - times["restarted"])


def age(process: psutil.Process) -> float:
    """Return how many seconds ago a process began, more exactly than its date says."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def first_start(run: Run) -> float | None:
    """Seconds in which the run's first engine started, beside the learner, until it had its weights."""
    engines = [v.process for v in victims(run.path, run.process.pid) if v.kind == "engine"]
    loads = [event["time"] for event in run.events() if event["event"] == "loaded"]
    return age(engines[0]) - (time.time() - loads[0]) if engines and loads else None


def soak(
    run: Run, minutes: float, mean: float, pairs: Iterator[tuple[str, str]], seed: int, deaths: list[Death]
) -> None:
    """Have processes die until the time is over.

    Args:
        run: has made its first update.
        pairs: kinds of victims, each with a way.
        deaths: takes each death.
    """
    chance, began = random.Random(seed), time.monotonic()
    run.until = began + 60 * minutes + PATIENCE
    while True:
        pause = chance.expovariate(1 / mean)
        if time.monotonic() + pause - began > 60 * minutes:
            return
        run.go_on(pause)
        kind, way = next(pairs)
        there = list[Victim]()

        def found(kind: str = kind, there: list[Victim] = there) -> bool:
            there[:] = [v for v in victims(run.path, run.process.pid) if v.kind == kind]
            return bool(there)

        if run.wait(f"a victim ({kind})", found, _ABSENT) is None:
            print(f"{time.monotonic() - began:7.0f} s  {kind:<15}there is none", flush=True)
            continue
        deaths.append(strike(run, chance.choice(there), way, began))
        print(row(deaths[-1]), flush=True)


def row(death: Death) -> str:
    """A line of the table of deaths."""
    back, moved = (f"{s:.1f} s" if s is not None else "never" for s in (death.back, death.next_update))
    found = "" if death.found is None else f"found {death.found:.1f} s"
    return (
        f"{death.at:7.0f} s  {death.kind:<15}{death.how:<16}update {death.update:<5}{found:<14}"
        f"replaced {back:<9}next update {moved}"
    )


def summary(deaths: Sequence[Death], start: float | None) -> list[str]:
    """Lines on what died, how soon that was found, and how soon an engine was replaced."""
    counts = (Counter(death.kind for death in deaths), Counter(death.how for death in deaths))
    lines = ["; ".join(", ".join(f"{n} {name}" for name, n in count.items()) for count in counts)]
    found = [(death.how == "SIGSTOP", death.found) for death in deaths if death.found is not None]
    for stopped, what in ((False, "deaths"), (True, f"freezes (limit {SILENCE:g} s)")):
        if times := [each for was, each in found if was is stopped]:
            lines.append(f"{what} were found within {spread(times)}")
    if back := [death.back for death in deaths if death.back is not None and death.own is not None]:
        lines.append(f"engines were replaced within {spread(back)}; the first one started in {start:.1f} s")
    for stopped, what in ((False, "killed"), (True, "stopped")):
        over = [d.back - d.own for d in deaths if d.back and d.own and (d.how == "SIGSTOP") is stopped]
        if over:
            lines.append(f"of that the start of another process began after {spread(over)} ({what})")
    return lines


def spread(seconds: Sequence[float]) -> str:
    """Say how long something took."""
    return f"{max(seconds):.1f} s (median {statistics.median(seconds):.1f} s of {len(seconds)})"


def verdicts(run: Run, deaths: list[Death]) -> list[Verdict]:
    """Return the checker's verdicts, and those on what only this process has seen."""
    found = check_run.check(read_files(run.path, run.journals), worth)
    late = [row(death) for death in deaths if death.back is None or death.next_update is None]
    found.append(Verdict("each death is recovered from", f"{len(deaths)} deaths", late))
    found.append(Verdict("the run ends only when it is killed", f"{run.starts} processes", run.ends))
    return found


def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads a list of such names."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return read


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    arguments = parser(__doc__ or "", "soak")
    arguments.add_argument("--minutes", type=float, default=10.0, help="for which processes die (10)")
    arguments.add_argument(
        "--seed", type=int, default=0, help="of the run, of the moments and of the victims"
    )
    arguments.add_argument("--mean", type=float, default=30.0, help="seconds between recovery and death (30)")
    arguments.add_argument("--victims", type=chosen(KINDS), default=KINDS, help=f"of: {', '.join(KINDS)}")
    arguments.add_argument("--ways", type=chosen(WAYS), default=WAYS, help=f"of: {', '.join(WAYS)}")
    arguments.add_argument("--baselines", type=int, default=3, help="undisturbed runs to compare with (3)")
    arguments.add_argument("--problems", type=int, default=256, help="on which accuracy is measured (256)")
    arguments.add_argument("settings", nargs="*", help="of the run, as key.sub=value")
    return arguments.parse_args()


def disturbed(folder: Path, given: argparse.Namespace) -> tuple[Run, list[Death], float | None]:
    """Make the run whose parts die; return it, each death, and how long its first engine took to start."""
    problems = given.problems if given.baselines else 0
    settings = ["steps=1000000", f"seed={given.seed}", f"evaluation.problems={problems}"]
    if "rollout worker" in given.victims:
        settings.append("rollout.workers=2")
    run, deaths, start = Run(folder, [*settings, *given.settings]), list[Death](), None
    try:
        if run.wait("the first update", lambda: run.updates > 0) is None:
            sys.exit(f"the run did not begin: {run.said()}")
        start = first_start(run)
        pairs = draws(given.victims, given.ways, given.seed)
        soak(run, given.minutes, given.mean, pairs, given.seed, deaths)
        run.stop()
        if given.baselines:
            run.finish()
    except InterruptedError as cut:
        run.ends.append(str(cut))
    finally:
        run.kill()
    return run, deaths, start


def interrupt(number: int, frame: object) -> None:
    """Go over to the verdicts."""
    raise InterruptedError(f"the soak was cut short by {signal.Signals(number).name}")


def main() -> None:
    """Soak, check, print, save."""
    given = read_arguments()
    folder = given.output / f"seed-{given.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Start, last recovery and stop; with baselines the end, too. Two of them take no longer than all that.
    limit = given.minutes + (PATIENCE * 2.5 + PATIENCE * bool(given.baselines)) / 60
    print(f"at most {limit * (1 + given.baselines / 2):.0f} minutes", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)
    run, deaths, start = disturbed(folder, given)
    found = verdicts(run, deaths)
    if given.baselines:
        seeds = range(given.seed, given.seed + given.baselines)
        others = list[Path]()
        with suppress(InterruptedError):
            others = undisturbed(folder, run.updates, seeds, given.problems, 30 * limit * given.baselines)
        found.append(compared(run.path, others, given.problems))
    print("\n".join([*map(row, deaths), *summary(deaths, start)]))
    broken = check_run.show(found)
    results: dict[str, Any] = {"updates": run.updates, "deaths": [asdict(death) for death in deaths]}
    results |= {"first_start": start, "verdicts": [verdict._asdict() for verdict in found]}
    print(save(given.output, f"seed-{given.seed}", results))
    sys.exit(broken)


if __name__ == "__main__":
    main()
