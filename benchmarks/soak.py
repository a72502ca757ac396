"""Kills parts of a training run at random, and checks that the run still keeps its guarantees.

The run trains the model that ships with areal. Every so many seconds on average (``--mean``), it loses a
process: an engine, vLLM's EngineCore, a rank of the learner, a rollout worker, an environment, a sandbox, a
worker of the math verifier, or the run's own process, after which the soak test resumes the run. A victim is
killed, is stopped (SIGSTOP), crashes (SIGSEGV), or runs out of memory. All kinds of victims are about equally
frequent, and so are all ways. At the end, the soak test stops the run in an orderly way, and check_run.py
reads the files of the run. With ``--baselines``, the run then makes two more updates and ends. The soak test
compares its accuracy with that of undisturbed runs with the same number of updates.

    python benchmarks/soak.py --minutes 10 --seed 0
    python benchmarks/soak.py --minutes 5 --victims engine,run --ways kill --baselines 0

The soak test prints each failure, the time of each recovery, and a verdict on each guarantee. It exits with 1
if a guarantee is violated. It first prints its maximum duration. It also prints its verdicts if it is
terminated early. A victim that runs out of memory shares a control group of 64 MiB with a process that
allocates memory endlessly. Where the soak test cannot create control groups (as a plain user), it limits the
address space of the victim instead.
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
"""Seconds to wait for a victim that does not exist, because it may be starting."""
_PARTS = {"engine": "engine", "EngineCore": "engine", "learner rank": "learner"}
"""The part that the run's events name when a victim of a kind is lost."""


@dataclass
class Death:
    """One death and its recovery; all times are in seconds.

    Attributes:
        at: the time since the first update.
        how: the signal, or another cause.
        update: the last update before the death.
        found: the time until the run detected the death; None: the run does not report it.
        back: the time until another process replaced the victim; None: not in time.
        next_update: the time until the next update; None: not in time.
        own: the part of ``back`` that the replacement engine took to start, from the start of its process.
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
    """End a process, and wait until the run recovers."""
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
    """Return whether a victim is gone and, if it was the only one of its kind, has been replaced."""
    with suppress(psutil.NoSuchProcess):
        if victim.process.status() != psutil.STATUS_ZOMBIE:
            return False
    if victim.kind in SEVERAL:  # others are there, and more are started as they are needed
        return True
    there = victims(run.path, run.process.pid)
    another = any(v.kind == victim.kind and v.process.pid != victim.process.pid for v in there)
    return another and _PARTS.get(victim.kind, "") not in run.missing()


def read_times(run: Run, death: Death, struck: float) -> None:
    """Record the times of a death from the run's own events, which are more exact than those seen here."""
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
    """Return the age of a process in seconds, more exactly than its start date allows."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def first_start(run: Run) -> float | None:
    """Return the seconds until the run's first engine, started beside the learner, had its weights."""
    engines = [v.process for v in victims(run.path, run.process.pid) if v.kind == "engine"]
    loads = [event["time"] for event in run.events() if event["event"] == "loaded"]
    return age(engines[0]) - (time.time() - loads[0]) if engines and loads else None


def soak(
    run: Run, minutes: float, mean: float, pairs: Iterator[tuple[str, str]], seed: int, deaths: list[Death]
) -> None:
    """End processes at random until the time is over.

    Args:
        run: the run, which has made its first update.
        minutes: the duration.
        mean: the mean number of seconds between a recovery and the next death.
        pairs: the kinds of victims, each with a way.
        seed: the seed of the moments and of the victims.
        deaths: the list to which each death is appended.
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
    """Return the line of a death in the table of deaths."""
    back, moved = (f"{s:.1f} s" if s is not None else "never" for s in (death.back, death.next_update))
    found = "" if death.found is None else f"found {death.found:.1f} s"
    return (
        f"{death.at:7.0f} s  {death.kind:<15}{death.how:<16}update {death.update:<5}{found:<14}"
        f"replaced {back:<9}next update {moved}"
    )


def summary(deaths: Sequence[Death], start: float | None) -> list[str]:
    """Return lines on what died, how soon the run detected it, and how soon engines were replaced."""
    counts = (Counter(death.kind for death in deaths), Counter(death.how for death in deaths))
    lines = ["; ".join(", ".join(f"{n} {name}" for name, n in count.items()) for count in counts)]
    found = [(death.how == "SIGSTOP", death.found) for death in deaths if death.found is not None]
    for stopped, what in ((False, "deaths"), (True, f"freezes (limit {SILENCE:g} s)")):
        if times := [each for was, each in found if was is stopped]:
            lines.append(f"{what} were detected within {spread(times)}")
    if back := [death.back for death in deaths if death.back is not None and death.own is not None]:
        lines.append(
            f"engines were replaced within {spread(back)}; the first engine started in {start:.1f} s"
        )
    for stopped, what in ((False, "killed"), (True, "stopped")):
        over = [d.back - d.own for d in deaths if d.back and d.own and (d.how == "SIGSTOP") is stopped]
        if over:
            lines.append(f"their new processes started within {spread(over)} ({what})")
    return lines


def spread(seconds: Sequence[float]) -> str:
    """Return the maximum and the median of durations, in words."""
    return f"{max(seconds):.1f} s (median {statistics.median(seconds):.1f} s of {len(seconds)})"


def verdicts(run: Run, deaths: list[Death]) -> list[Verdict]:
    """Return the verdicts of the checker, and those on what only this process has observed."""
    found = check_run.check(read_files(run.path, run.journals), worth)
    late = [row(death) for death in deaths if death.back is None or death.next_update is None]
    found.append(Verdict("each death is recovered from", f"{len(deaths)} deaths", late))
    found.append(Verdict("the run ends only when it is killed", f"{run.starts} processes", run.ends))
    return found


def chosen(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a parser for a list of known names."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    return read


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    arguments = parser(__doc__ or "", "soak")
    arguments.add_argument(
        "--minutes", type=float, default=10.0, help="minutes during which processes die (default: 10)"
    )
    arguments.add_argument(
        "--seed", type=int, default=0, help="seed of the run, of the moments and of the victims"
    )
    arguments.add_argument(
        "--mean",
        type=float,
        default=30.0,
        help="mean seconds between a recovery and the next death (default: 30)",
    )
    arguments.add_argument(
        "--victims", type=chosen(KINDS), default=KINDS, help=f"kinds of victims (default: {', '.join(KINDS)})"
    )
    arguments.add_argument(
        "--ways", type=chosen(WAYS), default=WAYS, help=f"ways to fail (default: {', '.join(WAYS)})"
    )
    arguments.add_argument(
        "--baselines", type=int, default=3, help="undisturbed runs for comparison (default: 3)"
    )
    arguments.add_argument(
        "--problems", type=int, default=256, help="problems of an accuracy measurement (default: 256)"
    )
    arguments.add_argument("settings", nargs="*", help="settings of the run, as key.sub=value")
    return arguments.parse_args()


def disturbed(folder: Path, given: argparse.Namespace) -> tuple[Run, list[Death], float | None]:
    """Make the run whose parts die; return it, its deaths, and the startup time of its first engine."""
    problems = given.problems if given.baselines else 0
    settings = ["steps=1000000", f"seed={given.seed}", f"evaluation.problems={problems}"]
    if "rollout worker" in given.victims:
        settings.append("rollout.workers=2")
    run, deaths, start = Run(folder, [*settings, *given.settings]), list[Death](), None
    try:
        if run.wait("the first update", lambda: run.updates > 0) is None:
            sys.exit(f"the run did not start: {run.said()}")
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
    """Interrupt the soak test, which then gives its verdicts."""
    raise InterruptedError(f"{signal.Signals(number).name} ended the soak test early")


def main() -> None:
    """Run the soak test, check the run, print the verdicts, and save the results."""
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
