"""`mirror verify` finds what a disk, a person or a kill may do to the files, and brings it back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.layout import Layout
from mirror.publish import devpi_server
from mirror.verify import verify
from tests.index_server import IndexServer
from tests.mirror.registry import Registry
from tests.mirror.stocking import stock
from tests.project import Project
from tests.wheels import digest, make_wheel


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "3.0.0")


@pytest.fixture
def stocked(project: Project, index: IndexServer, wheels: Path, flask: Path) -> Project:
    project.lock(flask)
    stock(project.layout, flask, make_wheel(wheels, "click", "8.1.0"), base=f"{index.url}/files")
    return project


def held(project: Project, file: Path) -> Path:
    return project.layout.store.path(digest(file))


def spoil(path: Path) -> None:
    """Change one bit in place, as a failing disk does; every hard link sees it."""
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def verified(project: Project, *arguments: str, code: int = 34) -> list[dict[str, Any]]:
    ended = project.mirror("verify", "--json", *arguments)
    assert ended.returncode == code, ended.stderr
    return list(json.loads(ended.stdout)["findings"])


def test_a_whole_mirror_is_clean(stocked: Project) -> None:
    ended = stocked.mirror("verify")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "verified 2 files" in ended.stderr


def test_it_tells_how_much_there_is_to_read_and_how_far_it_is(stocked: Project) -> None:
    told: list[int] = []

    def begin(size: int) -> Callable[[int], None]:
        told.append(size)
        return lambda read: told.append(-read)

    verdict = verify(stocked.layout, begin)
    assert (told[0], sum(told), len(told)) == (verdict.size, 0, 1 + verdict.files)


def test_an_empty_mirror_is_clean(project: Project, flask: Path) -> None:
    project.lock(flask)
    assert verified(project, code=0) == []


@pytest.mark.parametrize("harm", [spoil, lambda path: path.chmod(0o644) or path.write_bytes(b"short")])
def test_wrong_bytes_go_into_quarantine(stocked: Project, flask: Path, harm: Any) -> None:
    harm(held(stocked, flask))
    bad = held(stocked, flask).read_bytes()
    ended = stocked.mirror("verify")
    assert ended.returncode == 34
    assert flask.name in ended.stdout
    assert "--repair" in ended.stderr
    aside = stocked.layout.root / "quarantine" / held(stocked, flask).relative_to(stocked.layout.root)
    assert aside.read_bytes() == bad
    assert not held(stocked, flask).exists()
    assert [finding["kind"] for finding in verified(stocked)] == ["missing"]


def test_repair_fetches_again_and_clients_get_it(project: Project, flask: Path, index: IndexServer) -> None:
    project.lock(flask)
    project.refreshed()
    spoil(held(project, flask))
    index.requests.clear()
    found = verified(project, "--repair", code=0)
    assert {(f["kind"], f["name"], f["repaired"]) for f in found} == {
        ("damaged", flask.name, True),
        ("published", flask.name, True),
    }
    assert index.fetched() == [flask.name]
    registry = Registry(project.layout.root, project.port)
    with devpi_server.start(project.layout.devpi, project.port):
        assert registry.files("flask") == {flask.name: digest(flask)}
    assert verified(project, code=0) == []


def test_links_whose_place_does_not_tell_their_digest_are_mended_too(stocked: Project, flask: Path) -> None:
    """As npm's tarballs: they are known by the damaged file in quarantine, also in a later run."""
    tarball = stocked.layout.tree / "0001-x" / "npm" / "@s" / "a" / "-" / "a-1.0.0.tgz"
    tarball.parent.mkdir(parents=True)
    os.link(held(stocked, flask), tarball)
    assert verified(stocked, code=0) == []
    spoil(held(stocked, flask))
    assert [(f["kind"], f["repaired"]) for f in verified(stocked)] == [
        ("damaged", False),
        ("published", False),
    ]
    found = verified(stocked, "--repair", code=0)
    assert [(f["kind"], f["repaired"]) for f in found] == [("missing", True), ("published", True)]
    assert digest(tarball) == digest(flask)
    assert verified(stocked, code=0) == []


def test_a_lost_file_is_missing_until_it_is_repaired(stocked: Project, flask: Path) -> None:
    stocked.layout.store.remove(digest(flask))
    (finding,) = verified(stocked)
    assert (finding["kind"], finding["name"], finding["sha256"]) == ("missing", flask.name, digest(flask))
    assert [f["repaired"] for f in verified(stocked, "--repair", code=0)] == [True]
    assert held(stocked, flask).read_bytes() == flask.read_bytes()


def test_repair_trusts_nothing_but_the_digest(stocked: Project, flask: Path, index: IndexServer) -> None:
    stocked.layout.store.remove(digest(flask))
    index.faults[f"/files/{flask.name}"] = lambda answer: answer.send(200, b"x" * len(answer.body or b""))
    (finding,) = verified(stocked, "--repair")
    assert "not repaired" in finding["reason"]
    assert not held(stocked, flask).exists()


def test_what_a_killed_run_left_is_no_damage(stocked: Project, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(b"verified, and in no snapshot yet")
    target = stocked.layout.store.path(digest(whole))
    target.parent.mkdir(exist_ok=True)
    whole.rename(target)
    stocked.layout.store.incoming.mkdir()
    (stocked.layout.store.incoming / "tmp123").write_bytes(b"half")
    ended = stocked.mirror("verify", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["unnamed"] == 1
    assert list(stocked.layout.store.incoming.iterdir()) == []


def test_what_the_store_never_wrote_is_set_aside(stocked: Project) -> None:
    store = stocked.layout.store.root
    (store / "sha256" / "notes.txt").write_text("mine")
    (store / "sha256" / "ab" / "deep" / "er").mkdir(parents=True)
    (store / "sha256" / "ab" / "deep" / "er" / "file").write_text("mine")
    (store / "sha256" / "cd").mkdir(exist_ok=True)
    (store / "sha256" / "cd" / ("e" * 62)).symlink_to("/etc/passwd")
    assert {finding["kind"] for finding in verified(stocked)} == {"foreign"}
    assert (stocked.layout.root / "quarantine/store/sha256/notes.txt").read_text() == "mine"
    assert verified(stocked, code=0) == []


def test_a_damaged_manifest_gives_way_to_the_one_before(stocked: Project, wheels: Path, flask: Path) -> None:
    shelf = stocked.layout.snapshots
    before = shelf.current_name()
    name = stock(stocked.layout, make_wheel(wheels, "flask", "3.0.1"))
    path = shelf.root / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b"3.0.1", b"3.0.2"))
    (finding,) = verified(stocked)
    assert (finding["kind"], finding["name"]) == ("manifest", name)
    assert shelf.current_name() == before
    assert (stocked.layout.root / "quarantine/snapshots" / path.name).exists()
    assert verified(stocked, code=0) == []


def test_the_only_manifest_is_damaged(stocked: Project) -> None:
    shelf = stocked.layout.snapshots
    name = shelf.current_name()
    (shelf.root / f"{name}.json").write_text("{")
    assert [finding["name"] for finding in verified(stocked)] == [name]
    assert shelf.current_name() is None
    assert verified(stocked, code=0) == []


def test_it_waits_for_nobody_and_says_so(stocked: Project) -> None:
    with Layout(stocked.layout.root).exclusive():
        assert stocked.mirror("verify").returncode == 32
