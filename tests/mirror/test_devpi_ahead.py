"""devpi in a process of its own: it does the same, and nothing of it is left when its block ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.errors import RegistryError, StoreError
from mirror.publish import devpi, devpi_server, devpi_stage, devpi_state
from mirror.publish.check import check_index
from mirror.publish.devpi_ahead import Ahead
from mirror.snapshot import Snapshot, Stocked
from tests.mirror.registry import Registry
from tests.mirror.test_children import left_over, running
from tests.project import Project
from tests.wheels import make_wheel


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "mirror")


@pytest.fixture
def stocked(registry: Registry, tmp_path: Path) -> Stocked:
    return registry.stock(make_wheel(tmp_path, "lockstock-it", "1.0"), "lockstock-it", "1.0")


def published(ahead: Ahead, registry: Registry, stocked: Stocked) -> Snapshot:
    snapshot = Snapshot.of([], [stocked], [])
    done = ahead.call(devpi.publish, registry.folder, "0001-a", snapshot, registry.store, ())
    assert done == devpi.Published(index="s-0001-a", files=1, changed=True)
    return snapshot


def test_it_publishes_and_serves(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        ahead.start()
        snapshot = published(ahead, registry, stocked)
        check_index(ahead.index_url(), snapshot)
        assert not devpi_server.is_up(registry.folder, registry.port)  # people may serve on theirs
        assert len(running(str(registry.folder))) == 1
    assert left_over(str(registry.folder)) == []
    with registry.start():
        assert registry.projects() == ["lockstock-it"]


def test_a_server_that_runs_is_asked_and_stays(registry: Registry, stocked: Stocked) -> None:
    with registry.start():
        with Ahead(registry.folder, registry.port) as ahead:
            published(ahead, registry, stocked)
            assert ahead.index_url() == registry.index_url
        assert registry.projects() == ["lockstock-it"]


def test_a_server_that_ended_meanwhile_is_replaced(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        with registry.start():
            ahead.index_url()
        check_index(ahead.index_url(), published(ahead, registry, stocked))


def test_a_private_one_is_served_only_to_be_looked_at(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port, private=True) as ahead:
        ahead.start()
        snapshot = published(ahead, registry, stocked)
        assert running(str(registry.folder)) == []
        check_index(ahead.index_url(), snapshot)
    assert left_over(str(registry.folder)) == []


def test_errors_come_across_whole(registry: Registry, stocked: Stocked) -> None:
    registry.store.remove(stocked.sha256)
    with Ahead(registry.folder, registry.port) as ahead, pytest.raises(StoreError) as caught:
        published(ahead, registry, stocked)
    assert (caught.value.where, caught.value.hint) == (stocked.filename, "run `mirror refresh`")
    assert left_over(str(registry.folder)) == []


def test_what_keeps_devpi_from_starting_is_told_when_it_is_needed(registry: Registry, tmp_path: Path) -> None:
    other = Registry(tmp_path / "other", port=registry.port)
    with other.start(), Ahead(registry.folder, registry.port) as ahead:
        ahead.start()
        ahead.call(devpi_state.init, registry.folder)
        with pytest.raises(RegistryError, match="taken by another program"):
            ahead.index_url()


def test_one_that_is_killed_is_told_in_a_sentence(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        child = ahead.call(os.getpid)
        ahead.index_url()
        os.kill(child, signal.SIGKILL)
        with pytest.raises(RegistryError, match="was ended"):
            published(ahead, registry, stocked)
    assert left_over(str(registry.folder)) == []
    with Ahead(registry.folder, registry.port) as ahead:
        published(ahead, registry, stocked)


def read_and_used() -> tuple[int, int]:
    info = devpi_stage.shown.cache_info()
    return info.misses, info.hits


def test_metadata_is_read_as_files_come(registry: Registry, stocked: Stocked, tmp_path: Path) -> None:
    devpi_stage.shown.cache_clear()  # of what tests before read in this process, which the other one knows
    path = registry.store.path(stocked.sha256)
    late = path.rename(tmp_path / "late")
    with Ahead(registry.folder, registry.port) as ahead:
        ahead.expect([(path, stocked.filename), (tmp_path / "never", "never-1.0.tar.gz")])
        late.rename(path)
        while ahead.call(read_and_used) == (0, 0):
            time.sleep(0.01)
        published(ahead, registry, stocked)
        assert ahead.call(read_and_used) == (1, 1)


def test_it_does_nothing_until_it_is_told_to(registry: Registry) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        assert not registry.folder.exists()
        ahead.start()
        ahead.call(int)
        assert devpi_state.server_folder(registry.folder).is_dir()
        assert len(running(str(registry.folder))) == 1


@pytest.mark.parametrize("pause", [0, 0.3, 2])
def test_it_ends_with_a_parent_that_is_killed(registry: Registry, pause: float) -> None:
    script = (
        "import sys, time; from pathlib import Path; from mirror.publish.devpi_ahead import Ahead\n"
        f"with Ahead(Path({str(registry.folder)!r}), {registry.port}) as ahead:\n"
        "    ahead.start(); print('begun', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"begun\n"
        time.sleep(pause)
        parent.kill()
    assert left_over(str(registry.folder)) == []


@pytest.mark.timeout(60)
def test_a_run_that_fails_waits_for_nothing(registry: Registry) -> None:
    registry.folder.mkdir(parents=True)
    with devpi_state.locked(registry.folder):  # so that it would wait for ever
        with suppress(ZeroDivisionError), Ahead(registry.folder, registry.port) as ahead:
            waiting = ahead.begin(devpi_state.init, registry.folder)
            next_one = ahead.begin(devpi.prune, registry.folder, ())
            raise ZeroDivisionError
        assert ahead._process.exitcode == -signal.SIGKILL
        with pytest.raises(RegistryError, match="was ended"):
            waiting()
        with pytest.raises(CancelledError):
            next_one()


@pytest.mark.parametrize("pause", [0, 0.2, 0.5, 1, None], ids=str)
def test_nothing_is_left_of_a_run_that_fails_and_the_next_works(
    registry: Registry, stocked: Stocked, pause: float | None
) -> None:
    with suppress(ZeroDivisionError), Ahead(registry.folder, registry.port) as ahead:
        ahead.start()
        if pause is None:
            ahead.index_url()
            assert len(running(str(registry.folder))) == 1
        else:
            time.sleep(pause)
        raise ZeroDivisionError
    assert ahead._process.exitcode == -signal.SIGKILL
    assert left_over(str(registry.folder)) == []
    with Ahead(registry.folder, registry.port) as ahead:
        check_index(ahead.index_url(), published(ahead, registry, stocked))
    assert registry.leftovers() == []


@pytest.mark.timeout(120)
def test_a_refresh_whose_lock_cannot_be_met_does_not_wait_for_devpi(project: Project, wheels: Path) -> None:
    wheel = make_wheel(wheels, "flask", "1.0")
    project.lock(wheel, changed={wheel.name: "0" * 64})
    project.layout.devpi.mkdir(parents=True)
    with devpi_state.locked(project.layout.devpi):
        ended = project.mirror("refresh")
    assert ended.returncode == 20, ended.stderr
    assert left_over(str(project.folder)) == []
    project.lock(wheel)
    assert project.refreshed()["changed"] is True


def test_where_an_error_of_ours_came_from_is_not_lost(registry: Registry) -> None:
    with Ahead(registry.folder, registry.port) as ahead, pytest.raises(TypeError) as caught:
        ahead.call(os.fspath, 1)  # type: ignore[type-var]  # which is the error
    assert "in _work" in "".join(caught.value.__notes__)


def test_ctrl_c_is_left_to_the_parent(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        os.kill(ahead.call(os.getpid), signal.SIGINT)
        published(ahead, registry, stocked)


def test_an_index_that_shows_something_else_is_told(registry: Registry, stocked: Stocked) -> None:
    with Ahead(registry.folder, registry.port) as ahead:
        published(ahead, registry, stocked)
        with pytest.raises(RegistryError, match="differs from the snapshot: lockstock-it"):
            check_index(ahead.index_url(), Snapshot.of([], [], []))
        with pytest.raises(RegistryError, match="does not answer as one: 404 Not Found"):
            check_index(f"{ahead.index_url()}nowhere/", Snapshot.of([], [], []))
    with pytest.raises(RegistryError, match=r"does not answer as one: .*refused"):
        check_index(registry.index_url, Snapshot.of([], [], []))
