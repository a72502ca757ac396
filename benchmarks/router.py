"""Measures the cost and the quality of choosing an engine for a request, per number of engines.

    python benchmarks/router.py [--engines 1,2,8,64,1000] [--sequences 64] [--requests 200000] [--repeats 3]

The benchmark is a simulation with the router alone. It keeps ``--sequences`` requests per engine in flight.
When a request, chosen at random, ends, the next turn of its conversation begins. After the last turn, the
next conversation begins. Eight conversations share one task, like the members of a group. For each number of
engines, the benchmark prints:

- cost: the CPU time of one request in µs (its choice and its end), when the recorded events are replayed on a
  router of the same engines, and its ratio to the cost with one engine in the same round;
- turns: the share of later turns that go to the engine with their conversation;
- members: the share of first turns, except those of the first member, that go to an engine with their task;
- load: the requests of the most loaded engine over the mean, at the worst moment;
- change: the time in ms to add an engine, and the share of tasks whose home moves.
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
"""The value in place of a task for the end of a request."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: its task, its turn in the conversation, and the engine of the previous turn."""

    task: int
    turn: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The results of one simulation."""

    cost: float
    turns: float
    members: float
    load: float
    change: float
    moved: float


class Simulation:
    """A simulation of conversations on several engines."""

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
        """Begin a request, and end another one first if there is no room."""
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
        """Return the requests of the most loaded engine over the mean."""
        return max(self.router.in_flight.values()) / statistics.fmean(self.router.in_flight.values())

    def change(self) -> tuple[float, float]:
        """Return the time in ms to add an engine, and the share of homes that moved."""
        before = [self.router.home(key) for key in range(10_000)]
        started = time.thread_time()
        self.router.add("newcomer")
        seconds = time.thread_time() - started
        after = [self.router.home(key) for key in range(10_000)]
        self.router.remove("newcomer")
        moved = sum(a != b for a, b in zip(after, before, strict=True))
        return 1000 * seconds, moved / len(before)


def simulate(engines: int, sequences: int, requests: int, seed: int) -> Found:
    """Run a simulation that counts from the moment when all engines are full."""
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
    """Replay events on another router of the same engines, which makes the same choices."""
    for task, engine in events:
        if task == _END:
            router.finish(engine)
        else:
            router.start(task, engine)


def main() -> None:
    made = parser(__doc__, "router")
    made.add_argument("--engines", default="1,2,8,64,1000", help="numbers of engines (default: %(default)s)")
    made.add_argument(
        "--sequences", type=int, default=64, help="requests in flight per engine (default: %(default)s)"
    )
    made.add_argument(
        "--requests", type=int, default=200_000, help="measured requests (default: %(default)s)"
    )
    made.add_argument("--repeats", type=int, default=3, help="number of rounds (default: %(default)s)")
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
            f"{median['load']:.2f}; a change takes {median['change']:.1f} ms and moves a share of "
            f"{median['moved']:.4f}"
        )
    with picture(arguments.output, "router", "Cost of choosing an engine", (6, 3)) as figure:
        axes = figure.subplots()
        axes.semilogx(counts, [statistics.median(ratios[str(count)]) for count in counts], "o-", color=BLUE)
        axes.set(xlabel="engines", ylabel=f"µs/request over that of {counts[0]}", ylim=(0, None))
    results = {name: [asdict(found) for found in all_found] for name, all_found in rounds.items()}
    save(arguments.output, "router", {"ratios": ratios, "rounds": results})


if __name__ == "__main__":
    main()
