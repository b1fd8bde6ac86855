"""kill -9 at every moment in which the registry's files change, and what the next run makes of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from mirror.publish import devpi, devpi_server, devpi_state
from mirror.snapshot import Stocked
from tests.mirror.registry import Registry
from tests.mirror.test_devpi_server import foreground, wait_until
from tests.wheels import make_wheel

# Opening the database stands for every transaction; the others are all steps from file to file.
_STEPS = ("os.link", "os.rename", "os.remove", "os.rmdir", "os.truncate", "sqlite3.connect")


def steps_until_killed(work: Callable[[], object], moment: int, steps: Collection[str] = _STEPS) -> bool:
    """Do `work` in a child that is killed right before its step number `moment`; say if it was.

    `steps` are audit events of Python's.
    """
    child = multiprocessing.get_context("fork").Process(target=_work_and_die, args=(work, moment, steps))
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _work_and_die(work: Callable[[], object], moment: int, steps: Collection[str]) -> None:
    left = moment

    def watch(event: str, _arguments: object) -> None:
        nonlocal left
        if event in steps:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "mirror")


@pytest.fixture
def served(registry: Registry) -> Iterator[Registry]:
    with registry.start():
        yield registry


def stock(registry: Registry, version: str) -> list[Stocked]:
    wheels = registry.root / "wheels"
    names = ("lockstock-one", "lockstock-two")
    return [registry.stock(make_wheel(wheels, name, version), name, version) for name in names]


def digests(registry: Registry, files: list[Stocked]) -> bool:
    """Say whether clients get exactly these files, whole."""
    return registry.projects() == [file.name for file in files] and all(
        registry.files(file.name) == {file.filename: file.sha256} for file in files
    )


def test_a_killed_publisher_harms_nobody_and_the_next_one_ends_well(served):
    previous = stock(served, "1.0")
    served.publish("0000-x", *previous)
    moment = 0
    while True:
        name, files = f"{moment + 1:04}-x", stock(served, f"2.{moment}")
        killed = steps_until_killed(lambda: served.publish(name, *files), moment)  # noqa: B023 - used at once
        if not killed:
            break
        shown = [file for file in (previous, files) if digests(served, file)]
        assert shown, f"clients see half after step {moment}"
        served.publish(name, *files)
        assert digests(served, files), f"step {moment}"
        assert served.leftovers() == [], f"step {moment}"
        assert devpi.prune(served.folder, [name]) == (f"s-{moment:04}-x",), f"step {moment}"
        assert served.indexes() == ["current", f"s-{name}"]
        previous, moment = files, moment + 1
    assert moment > 10, "the steps were not seen"


def test_a_killed_publisher_of_a_snapshot_that_is_given_up_leaves_nothing(served):
    good = stock(served, "1.0")
    served.publish("0000-x", *good)
    moment = 0
    while steps_until_killed(lambda: served.publish("0001-x", *stock(served, "2.0")), moment):
        served.publish("0000-x", *good)
        devpi.prune(served.folder, ["0000-x"])
        assert digests(served, good), f"step {moment}"
        assert served.leftovers() == [], f"step {moment}"
        assert served.indexes() == ["current", "s-0000-x"], f"step {moment}"
        folders = (devpi_state.server_folder(served.folder) / "+files" / devpi_state.USER).iterdir()
        assert [folder.name for folder in folders] == ["s-0000-x"], f"step {moment}"
        moment += 1
    assert moment > 10, "the steps were not seen"


def test_a_killed_prune_is_ended_by_the_next(served):
    moment = 0
    while True:
        old, new = stock(served, f"1.{moment}"), stock(served, f"2.{moment}")
        served.publish(f"old-{moment}", *old)
        served.publish(f"new-{moment}", *new)
        if not steps_until_killed(lambda: devpi.prune(served.folder, []), moment):
            break
        assert digests(served, new), f"step {moment}"
        devpi.prune(served.folder, [])
        assert served.indexes() == ["current", f"s-new-{moment}"], f"step {moment}"
        assert served.store.path(old[0].sha256).stat().st_nlink == 1, f"step {moment}"
        moment += 1
    assert moment > 5, "the steps were not seen"


def test_a_killed_init_is_ended_by_the_next(registry, tmp_path):
    moment = 0
    while True:
        attempt = Registry(tmp_path / str(moment))
        if not steps_until_killed(lambda: devpi_state.init(attempt.folder), moment):  # noqa: B023 - used at once
            break
        files = stock(attempt, "1.0")
        attempt.publish("0001-x", *files)
        assert attempt.leftovers() == [], f"step {moment}"
        moment += 1
    assert moment > 5, "the steps were not seen"
    with attempt.start():
        assert attempt.projects() == []


def cut_off(registry: Registry) -> None:
    """Write to devpi's database, and be killed when some of it is in the file, and the rest is not."""
    database = sqlite3.connect(registry.folder / "server" / ".sqlite", isolation_level=None)
    for statement in ("PRAGMA cache_size = 1", "BEGIN IMMEDIATE", "CREATE TABLE cut (off BLOB)"):
        database.execute(statement)
    for _ in range(50):
        database.execute("INSERT INTO cut VALUES (randomblob(9000))")
    os.kill(os.getpid(), signal.SIGKILL)


def leave_half(registry: Registry) -> None:
    child = multiprocessing.get_context("fork").Process(target=cut_off, args=(registry,))
    child.start()
    child.join(60)
    assert (registry.folder / "server" / ".sqlite-journal").stat().st_size


@pytest.mark.parametrize("way", ["a writer", "a server"])
def test_a_transaction_cut_off_in_the_middle_of_the_file_is_undone(registry, way):
    registry.publish("0000-x", *stock(registry, "1.0"))
    leave_half(registry)
    files = stock(registry, "2.0") if way == "a writer" else stock(registry, "1.0")
    if way == "a writer":
        registry.publish("0001-x", *files)
    with registry.start():
        assert digests(registry, files)


def test_a_server_that_runs_undoes_a_transaction_that_is_cut_off(registry):
    files = stock(registry, "1.0")
    registry.publish("0000-x", *files)
    with foreground(registry) as process:
        try:
            wait_until(lambda: devpi_server.is_up(registry.folder, registry.port))
            assert digests(registry, files)
            for _ in range(3):
                leave_half(registry)
                wait_until(lambda: not (registry.folder / "server" / ".sqlite-journal").exists(), limit=5)
                assert digests(registry, files)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=20)
    assert process.returncode == 0, log


def test_a_server_that_runs_leaves_alone_what_is_being_written(registry):
    files = stock(registry, "1.0")
    registry.publish("0000-x", *files)
    with foreground(registry) as process:
        try:
            wait_until(lambda: devpi_server.is_up(registry.folder, registry.port))
            database = sqlite3.connect(registry.folder / "server" / ".sqlite", isolation_level=None)
            for statement in ("BEGIN IMMEDIATE", "CREATE TABLE more (of TEXT)"):
                database.execute(statement)
            time.sleep(1.5)  # some times that the server looks
            assert digests(registry, files)
            database.execute("COMMIT")
            assert database.execute("SELECT count(*) FROM more").fetchone() == (0,)
            database.execute("DROP TABLE more")
            database.close()
        finally:
            process.terminate()
            process.communicate(timeout=20)
