"""Names of snapshots, their differences, pins, the way back, and pruning."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mirror import history
from mirror.diff import compare
from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.prune import prune
from mirror.publish import devpi_server
from tests.mirror.registry import Registry
from tests.mirror.stocking import snapshot_of, stock, stocked
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.project import Project
from tests.wheels import digest, make_wheel


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "mirror")


@pytest.fixture
def versions(layout: Layout, wheels: Path) -> list[str]:
    """Four snapshots of one package, each with a version of its own."""
    return [stock(layout, make_wheel(wheels, "flask", f"3.0.{n}")) for n in range(4)]


def test_names_that_people_give(layout: Layout, versions: list[str]) -> None:
    shelf = layout.snapshots
    assert history.resolve(shelf, "current") == versions[3]
    assert history.resolve(shelf, "previous") == versions[2]
    assert [history.resolve(shelf, f"000{n}") for n in (1, 2)] == versions[:2]
    assert history.resolve(shelf, versions[1].partition("-")[2]) == versions[1]
    assert history.resolve(shelf, "9999-" + versions[1].partition("-")[2]) == versions[1]
    shelf.switch(versions[1])
    assert history.resolve(shelf, "previous") == versions[0]


@pytest.mark.parametrize(("text", "reason"), [("000", "may mean"), ("", "may mean"), ("zzz", "no such")])
def test_names_that_mean_none_or_many(layout: Layout, versions: list[str], text: str, reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        history.resolve(layout.snapshots, text)


def test_an_empty_mirror_has_neither_current_nor_previous(layout: Layout) -> None:
    for text in ("current", "previous", "-"):
        with pytest.raises(StoreError, match="nothing is stocked yet"):
            history.resolve(layout.snapshots, text)


def test_the_first_snapshot_has_none_before_it(layout: Layout, wheels: Path) -> None:
    first = stock(layout, make_wheel(wheels, "flask", "1.0"))

    with pytest.raises(StoreError, match="is the first") as caught:
        history.resolve(layout.snapshots, "previous")

    assert caught.value.where == first


def test_difference_of_two_snapshots(wheels: Path) -> None:
    flask1, flask2 = (
        make_wheel(wheels, "flask", "1.0"),
        make_wheel(wheels, "flask", "2.0", files={"a": "a" * 99}),
    )
    click, jinja2 = make_wheel(wheels, "click", "1.0"), make_wheel(wheels, "jinja2", "1.0")
    same = make_wheel(wheels, "same", "1.0")
    old = snapshot_of(map(stocked, (flask1, click, same)))
    new = snapshot_of(map(stocked, (flask2, jinja2, same)))
    difference = compare(old, new)
    assert [(c.kind, c.name, c.old_versions, c.new_versions) for c in difference.changes] == [
        ("removed", "click", ("1.0",), ()),
        ("changed", "flask", ("1.0",), ("2.0",)),
        ("added", "jinja2", (), ("1.0",)),
    ]
    flask = difference.changes[1]
    assert (flask.files_added, flask.files_removed) == ((flask2.name,), (flask1.name,))
    assert (flask.old_size, flask.new_size) == (flask1.stat().st_size, flask2.stat().st_size)
    assert difference.fetched_size == flask2.stat().st_size + jinja2.stat().st_size
    assert compare(old, old).changes == ()


def test_another_file_of_the_same_version_is_a_change(wheels: Path) -> None:
    one = make_wheel(wheels, "numpy", "1.0", tag="cp311-cp311-linux_x86_64")
    two = make_wheel(wheels, "numpy", "1.0", tag="cp312-cp312-linux_x86_64")
    (change,) = compare(snapshot_of([stocked(one)]), snapshot_of([stocked(one), stocked(two)])).changes
    assert (change.kind, change.files_added, change.files_removed) == ("changed", (two.name,), ())


def test_a_pinned_snapshot_outlives_its_time(layout: Layout, versions: list[str]) -> None:
    history.pin(layout.snapshots, versions[0])
    assert prune(layout, 1).snapshots == tuple(versions[1:3])
    assert layout.snapshots.names() == (versions[0], versions[3])
    assert len(list(layout.store.digests())) == 2
    history.unpin(layout.snapshots, versions[0])
    assert prune(layout, 1).snapshots == (versions[0],)
    assert len(list(layout.store.digests())) == 1


def test_a_pin_is_set_or_not_whenever_it_is_killed(layout: Layout, versions: list[str]) -> None:
    moment = 0
    while steps_until_killed(lambda: history.pin(layout.snapshots, versions[0]), moment):
        assert layout.snapshots.names() == tuple(versions)
        history.pin(layout.snapshots, versions[0])
        assert history.pinned(layout.snapshots) == {versions[0]}
        history.unpin(layout.snapshots, versions[0])
        moment += 1
    assert moment > 0, "the steps were not seen"
    assert history.pinned(layout.snapshots) == {versions[0]}


def test_a_killed_prune_is_ended_by_the_next(layout: Layout, wheels: Path, versions: list[str]) -> None:
    moment = 0
    while steps_until_killed(lambda: prune(layout, 1), moment):
        name = layout.snapshots.current_name()
        assert name
        for artifact in layout.snapshots.load(name).artifacts:
            assert layout.store.holds(artifact.sha256)
        stock(layout, make_wheel(wheels, "flask", f"4.0.{moment}"))
        moment += 1
    assert moment > 2, "the steps were not seen"
    assert len(layout.snapshots.names()) == 1
    assert len(list(layout.store.digests())) == 1


def test_a_rollback_publishes_before_it_switches(layout: Layout, versions: list[str]) -> None:
    seen: list[tuple[str, str | None]] = []
    assert history.rollback(
        layout, versions[1], lambda name, _: seen.append((name, layout.snapshots.current_name()))
    )
    assert seen == [(versions[1], versions[3])]
    assert layout.snapshots.current_name() == versions[1]
    assert history.rollback(layout, versions[1], lambda *_: None) is False


def test_a_rollback_to_what_is_lost_is_refused(layout: Layout, wheels: Path, versions: list[str]) -> None:
    layout.store.remove(digest(wheels / "flask-3.0.0-py3-none-any.whl"))
    with pytest.raises(StoreError, match="as flask-3"):
        history.rollback(layout, versions[0], lambda *_: None)
    assert layout.snapshots.current_name() == versions[3]


def test_back_and_forth_as_a_user(project: Project, wheels: Path) -> None:
    old, new = make_wheel(wheels, "flask", "1.0"), make_wheel(wheels, "flask", "2.0")
    project.configure(mirror="keep = 1")
    project.lock(old)
    first = project.refreshed()["snapshot"]
    assert project.mirror("pin", "current").returncode == 0
    project.lock(new)
    second = project.refreshed()["snapshot"]
    shown = project.mirror("diff", "previous", "current")
    assert shown.stdout.splitlines()[0].startswith("changed flask 1.0 to 2.0, ")
    report = json.loads(project.mirror("diff", "--json", first[:4], second[:4]).stdout)
    assert (report["old"], report["new"], len(report["changes"])) == (first, second, 1)

    ended = project.mirror("rollback", "previous")
    assert (ended.returncode, ended.stderr) == (0, f"{first} is served\n")
    registry = Registry(project.layout.root, project.port)
    with devpi_server.start(project.layout.devpi, project.port):
        assert registry.files("flask") == {old.name: digest(old)}
        forward = project.refreshed()
        assert (forward["snapshot"], forward["changed"], forward["fetched"]) == (second, True, 0)
        assert registry.files("flask") == {new.name: digest(new)}

    assert project.mirror("unpin", first).returncode == 0
    before = project.mirror("prune", "--dry-run")
    assert before.stdout == f"{first}{os.linesep}"
    assert "1 snapshot, 1 file, " in before.stderr
    assert project.layout.snapshots.names() == (first, second)
    assert json.loads(project.mirror("prune", "--json").stdout)["snapshots"] == [first]
    assert project.layout.snapshots.names() == (second,)
    assert project.mirror("rollback", first).returncode == 31
