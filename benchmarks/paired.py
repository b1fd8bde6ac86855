"""Paired timing: A B A B in one run, the median of several, told as ratios."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mirror.console import human_time, print_table


@dataclass
class Contestant:
    """A command to time. `prepare` runs before each round and is not timed."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], object] = lambda: None
    environment: dict[str, str] = field(default_factory=dict)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self) -> None:
        self.prepare()
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(
            self.command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        self.wall.append(time.perf_counter() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if ended.returncode:
            sys.exit(f"{self.name} failed: {' '.join(self.command)}\n{ended.stderr[-2000:]}")


def compare(title: str, contestants: Sequence[Contestant], rounds: int) -> None:
    """Run all contestants in turn, `rounds` times, and print medians and ratios to the first."""
    for _ in range(rounds):
        for contestant in contestants:
            contestant.run()
    first = contestants[0]
    rows = []
    for contestant in contestants:
        ratios = [theirs / ours for ours, theirs in zip(first.wall, contestant.wall, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        wall, cpu = statistics.median(contestant.wall), statistics.median(contestant.cpu)
        rows.append(
            (contestant.name, human_time(wall), human_time(cpu), f"{statistics.median(ratios):.2f}", spread)
        )
    print_table(f"{title} (median of {rounds})", ("", "wall", "CPU", "wall / first", "spread"), rows)


def rounds(default: int = 5) -> int:
    """Give the number of rounds: ROUNDS in the environment, or the default."""
    return int(os.environ.get("ROUNDS", default))


def venv_command(name: str) -> str:
    """Give the path of a command in the environment that runs this."""
    return str(Path(sys.executable).parent / name)
