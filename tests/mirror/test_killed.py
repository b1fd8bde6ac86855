"""SIGKILL at 50 moments of a refresh: after each the mirror is whole, serves, and the next run ends well.

At half of them a server runs meanwhile, and devpi's own pages behind it are there again in a moment.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx

from mirror.layout import Layout
from mirror.publish import devpi_server
from tests.index_server import IndexServer
from tests.mirror.stocking import is_whole
from tests.mirror.test_devpi_server import wait_until
from tests.project import Project
from tests.wheels import make_wheel

MOMENTS = 50
# Imports are half of a run, and nothing happens in them: they are done before, once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["mirror.commands", "mirror.fill", "mirror.publish.check", "devpi_server.main"]
)


def refresh(folder: Path, environment: dict[str, str]) -> None:
    from mirror.commands import app

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


@contextmanager
def serving(project: Project) -> Iterator[None]:
    """Run `mirror serve`, which must end well in the end."""
    log = project.folder / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            project.command("serve"),
            cwd=project.folder,
            stdout=file,
            stderr=file,
            env=project.options()["env"],
        )
    try:
        wait_until(lambda: devpi_server.is_up(project.layout.devpi, project.port))
        yield
    finally:
        process.terminate()
        process.wait(20)
    assert process.returncode == 0, log.read_text()


def is_shown(project: Project) -> bool:
    """Say whether devpi's own pages show all files."""
    index = devpi_server.index_url(project.port)
    pages = [httpx.get(f"{index}part{number}/", trust_env=False) for number in range(4)]
    return all(page.status_code == 200 and "part" in page.text for page in pages)


def test_killed_at_50_moments(project: Project, index: IndexServer) -> None:
    noise = random.Random(7)
    project.configure(mirror="keep = 2")
    durations = []
    for number in range(2):  # the first one has more to do than all others
        locked_anew(project, index.folder, noise, number)
        durations = [whole_run(project)]
    killed = 0
    moments = list(enumerate(noise.sample(range(MOMENTS), MOMENTS), 2))
    for some, is_served in ((moments[: MOMENTS // 2], True), (moments[MOMENTS // 2 :], False)):
        with serving(project) if is_served else nullcontext():
            for number, part in some:
                locked_anew(project, index.folder, noise, number)
                process = started(project)
                time.sleep((part + noise.random()) / MOMENTS * sorted(durations)[len(durations) // 2])
                process.kill()
                process.join()
                killed += process.exitcode == -signal.SIGKILL
                assert versions(project.layout) in ({f"{number - 1}.0"}, {f"{number}.0"})
                assert is_whole(project.layout)
                if is_served:
                    wait_until(lambda: is_shown(project), limit=5)
                durations.append(whole_run(project))
                assert versions(project.layout) == {f"{number}.0"}
    assert killed > MOMENTS // 2
    assert list(project.layout.store.incoming.iterdir()) == []
    assert is_whole(project.layout)
