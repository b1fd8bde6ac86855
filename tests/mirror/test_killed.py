"""SIGKILL at 50 moments of a refresh: after each the mirror is whole, serves, and the next run ends well."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from mirror.layout import Layout
from tests.index_server import IndexServer
from tests.mirror.stocking import is_whole
from tests.project import Project
from tests.wheels import make_wheel

MOMENTS = 50
# Imports are half of a run, and nothing happens in them: they are done before, once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["mirror.__main__", "mirror.fill", "mirror.publish.check", "devpi_server.main"]
)


def refresh(folder: Path, environment: dict[str, str]) -> None:
    from mirror.__main__ import app

    os.chdir(folder)
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    app(["refresh", "--json"])


def started(project: Project) -> ForkServerProcess:
    process = processes.Process(target=refresh, args=(project.folder, project.environment))
    process.start()
    return process


def locked_anew(project: Project, wheels: Path, noise: random.Random, number: int) -> None:
    files = {"x": noise.randbytes(50_000)}
    project.lock(*(make_wheel(wheels, f"part{n}", f"{number}.0", files=files) for n in range(4)))


def whole_run(project: Project) -> float:
    """Refresh to the end, which must be a good one, and give the seconds that it took."""
    begun = time.perf_counter()
    process = started(project)
    process.join()
    assert process.exitcode == 0
    return time.perf_counter() - begun


def versions(layout: Layout) -> set[str]:
    snapshot = layout.snapshots.current()
    assert snapshot is not None
    assert len(snapshot.artifacts) == 4
    return {artifact.version for artifact in snapshot.artifacts}


def test_killed_at_50_moments(project: Project, index: IndexServer) -> None:
    noise = random.Random(7)
    project.configure(mirror="keep = 2")
    durations = []
    for number in range(2):  # the first one has more to do than all others
        locked_anew(project, index.folder, noise, number)
        durations = [whole_run(project)]
    killed = 0
    for number, part in enumerate(noise.sample(range(MOMENTS), MOMENTS), 2):
        locked_anew(project, index.folder, noise, number)
        process = started(project)
        time.sleep((part + noise.random()) / MOMENTS * sorted(durations)[len(durations) // 2])
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert versions(project.layout) in ({f"{number - 1}.0"}, {f"{number}.0"})
        assert is_whole(project.layout)
        durations.append(whole_run(project))
        assert versions(project.layout) == {f"{number}.0"}
    assert killed > MOMENTS // 2
    assert list(project.layout.store.incoming.iterdir()) == []
    assert is_whole(project.layout)
