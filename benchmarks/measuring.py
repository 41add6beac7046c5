"""What did it take? Variants timed side by side, on a machine that is described, in a table of Markdown."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("torch", "timm", "numpy", "zarr")
# Above this share of the machine in other processes' hands, a number is not quoted.
QUIET = 0.05


@dataclass(frozen=True)
class Timed:
    """Seconds of each round, `wall` on the clock and `cpu` over all threads of the process."""

    wall: list[float]
    cpu: list[float]

    @property
    def seconds(self) -> float:
        """Median on the clock."""
        return statistics.median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        return statistics.median(self.cpu)

    def quantile(self, share: float) -> float:
        """Seconds on the clock that `share` of the rounds needed at most."""
        return sorted(self.wall)[min(len(self.wall) - 1, int(share * len(self.wall)))]


def paired(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timed]:
    """Each variant once in every round, after one that is not counted. Who goes first changes from round to round."""
    timed = {name: Timed([], []) for name in variants}
    names = list(variants)
    for name in names:
        variants[name]()
    for turn in range(rounds):
        gc.collect()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            variants[name]()
            timed[name].cpu.append(time.process_time() - cpu)
            timed[name].wall.append(time.perf_counter() - wall)
    return timed


def ratio(slow: Timed, fast: Timed, clock: str = "wall") -> float:
    """How many times faster: the median of the rounds' own ratios, as both variants of a round had the same machine."""
    pairs = zip(getattr(slow, clock), getattr(fast, clock), strict=True)
    return statistics.median(a / b for a, b in pairs)


@dataclass
class Table:
    """One benchmark's numbers, as text, and what they mean."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        body = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", *head, *body, "", *(f"{note}  " for note in self.notes), ""])


@contextmanager
def described(lines: list[str], *, served: bool) -> Iterator[None]:
    """Facts of the machine into `lines`, and at the end what else it did meanwhile.

    Args:
        served: What is measured is a server, and it is among the other processes; Chromium too.
    """
    cores = len(os.sched_getaffinity(0))
    lines.append(f"- {_cpu_name()}, {cores} cores; {platform.system()} {platform.release()}")
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines.append(f"- Python {platform.python_version()}, {versions}; {torch.get_num_threads()} torch threads")
    load, busy, wall, cpu = os.getloadavg()[0], _busy_seconds(), time.perf_counter(), _own_seconds()
    try:
        yield
    finally:
        wall = time.perf_counter() - wall
        others = max(0.0, _busy_seconds() - busy - (_own_seconds() - cpu)) / (wall * os.cpu_count())
        if served:
            verdict = ", the server and its workers among them"
        else:
            verdict = "" if others < QUIET else ": **measured under load, not to be quoted**"
        lines.append(
            f"- load average {load:.2f} before and {os.getloadavg()[0]:.2f} after; took {wall:.0f} s, in which other "
            f"processes had {others:.0%} of the machine{verdict}"
        )


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in facts.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _own_seconds() -> float:
    """Processor seconds of this process and of those that it has started and seen end."""
    return sum(os.times()[:4])


def _busy_seconds() -> float:
    """Processor seconds that the whole machine was busy for, since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
