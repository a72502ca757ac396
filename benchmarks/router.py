"""What it costs to choose an engine for a request, and how good the choice is, by the number of engines.

    python benchmarks/router.py [--engines 1,2,8,64,1000] [--sequences 64] [--requests 200000] [--repeats 3]

A simulation with the router alone. As many requests as ``--sequences`` for each engine are always in flight.
When one ends, chosen at random, the next turn of its conversation begins, or after the last one the next
conversation; eight conversations have one task, as the members of a group have. For each number of engines:

- cost: µs (of the core's time) of one request, its choice and its end, when what happened is put to a router
  of the same engines again, and how many times that of one engine (in the same round);
- turns: the share of later turns that were given to the engine that has their conversation;
- members: the share of first turns, but those of the first member, given to an engine that has their task;
- load: requests of the most loaded engine over the mean, at its worst;
- change: ms to take an engine in, and the share of tasks whose home moved then.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial

from common import BLUE, interleaved, parser, picture, save

from areal.rollout.router import Router

MEMBERS, TURNS = 8, 4
_END = -1
"""Stands for a task where a request has ended."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: of which task, which turn of its conversation, and where the one before was."""

    task: int
    turn: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What one simulation found."""

    cost: float
    turns: float
    members: float
    load: float
    change: float
    moved: float


class Simulation:
    """Conversations on as many engines as there are."""

    def __init__(self, engines: int, sequences: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self.engines = engines
        self.router = Router(f"engine {number}" for number in range(engines))
        self._room = engines * sequences
        self._in_flight: list[tuple[Turn, str]] = []
        self._waiting: list[Turn] = []
        self._seen: dict[int, set[str]] = defaultdict(set)
        self.events: list[tuple[int, str]] = []
        self.turns: list[bool] = []
        self.members: list[bool] = []

    def request(self) -> None:
        """End a request, if there is no room, and begin another."""
        if len(self._in_flight) == self._room:
            self._end()
        if not self._waiting:
            self._waiting = [Turn(self._rng.getrandbits(32))] * MEMBERS
        turn = self._waiting.pop()
        self.events.append((turn.task, turn.last))
        engine = self.router.start(turn.task, turn.last)
        if turn.turn:
            self.turns.append(engine == turn.last)
        elif turn.task in self._seen:
            self.members.append(engine in self._seen[turn.task])
        self._seen[turn.task].add(engine)
        self._in_flight.append((turn, engine))

    def _end(self) -> None:
        which = self._rng.randrange(self._room)
        self._in_flight[which], self._in_flight[-1] = self._in_flight[-1], self._in_flight[which]
        turn, engine = self._in_flight.pop()
        self.events.append((_END, engine))
        self.router.finish(engine)
        if turn.turn + 1 < TURNS:
            self._waiting.append(Turn(turn.task, turn.turn + 1, engine))

    def load(self) -> float:
        """Requests of the most loaded engine over the mean."""
        return max(self.router.in_flight.values()) / statistics.fmean(self.router.in_flight.values())

    def change(self) -> tuple[float, float]:
        """Return the ms of one change of the engines, and the share of homes that moved."""
        before = [self.router.home(key) for key in range(10_000)]
        started = time.thread_time()
        self.router.add("newcomer")
        seconds = time.thread_time() - started
        after = [self.router.home(key) for key in range(10_000)]
        self.router.remove("newcomer")
        moved = sum(a != b for a, b in zip(after, before, strict=True))
        return 1000 * seconds, moved / len(before)


def simulate(engines: int, sequences: int, requests: int, seed: int) -> Found:
    """Simulate, counting once all engines are full."""
    simulation, worst = Simulation(engines, sequences, seed), 0.0
    for _ in range(2 * engines * sequences):
        simulation.request()
    begun = len(simulation.events)
    simulation.turns.clear()
    simulation.members.clear()
    for number in range(requests):
        simulation.request()
        if number % 1000 == 0:
            worst = max(worst, simulation.load())
    router = Router(f"engine {number}" for number in range(engines))
    again(router, simulation.events[:begun])
    started = time.thread_time()
    again(router, simulation.events[begun:])
    cost = 1e6 * (time.thread_time() - started) / requests
    turns, members = statistics.fmean(simulation.turns), statistics.fmean(simulation.members)
    return Found(cost, turns, members, worst, *simulation.change())


def again(router: Router, events: list[tuple[int, str]]) -> None:
    """Put the same to another router of the same engines, which chooses the same."""
    for task, engine in events:
        if task == _END:
            router.finish(engine)
        else:
            router.start(task, engine)


def main() -> None:
    made = parser(__doc__, "router")
    made.add_argument("--engines", default="1,2,8,64,1000", help="numbers of engines (%(default)s)")
    made.add_argument("--sequences", type=int, default=64, help="in flight for each engine (%(default)s)")
    made.add_argument("--requests", type=int, default=200_000, help="that are measured (%(default)s)")
    made.add_argument("--repeats", type=int, default=3, help="rounds (%(default)s)")
    arguments = made.parse_args()
    counts = [int(count) for count in arguments.engines.split(",")]
    seeds = {count: iter(range(arguments.repeats)) for count in counts}

    def once(count: int) -> Found:
        return simulate(count, arguments.sequences, arguments.requests, next(seeds[count]))

    rounds = interleaved({str(count): partial(once, count) for count in counts}, arguments.repeats)
    first = [found.cost for found in rounds[str(counts[0])]]
    ratios = {
        name: [found.cost / cost for found, cost in zip(all_found, first, strict=True)]
        for name, all_found in rounds.items()
    }
    for name, all_found in rounds.items():
        median = {
            key: statistics.median(getattr(found, key) for found in all_found) for key in asdict(all_found[0])
        }
        print(
            f"{name:>5} engines: {median['cost']:5.1f} µs, {statistics.median(ratios[name]):.2f} times "
            f"that of {counts[0]}; turns {median['turns']:.3f}, members {median['members']:.3f}, load "
            f"{median['load']:.2f}; a change takes {median['change']:.1f} ms and moves {median['moved']:.4f}"
        )
    with picture(arguments.output, "router", "Cost of choosing an engine", (6, 3)) as figure:
        axes = figure.subplots()
        axes.semilogx(counts, [statistics.median(ratios[str(count)]) for count in counts], "o-", color=BLUE)
        axes.set(xlabel="engines", ylabel=f"µs/request over that of {counts[0]}", ylim=(0, None))
    results = {name: [asdict(found) for found in all_found] for name, all_found in rounds.items()}
    save(arguments.output, "router", {"ratios": ratios, "rounds": results})


if __name__ == "__main__":
    main()
