"""Bundles: what one mirror writes another one takes in, all of it or nothing."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import bundle, transfer
from mirror.bundle import Index, Member
from mirror.errors import BundleError, DamageError, StoreError
from mirror.layout import Layout
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from tests.mirror.stocking import snapshot_of, stock, stocked
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.project import Project
from tests.wheels import make_wheel


@pytest.fixture
def near(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "near")


@pytest.fixture
def far(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "far")


@pytest.fixture
def flask(wheels: Path) -> Path:
    return make_wheel(wheels, "flask", "1.0")


@pytest.fixture
def click(wheels: Path) -> Path:
    return make_wheel(wheels, "click", "1.0")


def export(layout: Layout, to: Path, since: str | None = None, capacity: int | None = None) -> list[Path]:
    name = layout.snapshots.current_name()
    assert name
    return [Path(v) for v in transfer.export(layout, name, since, to, capacity, lambda _: None).volumes]


def take(layout: Layout, *paths: Path) -> transfer.Imported:
    return transfer.import_(layout, paths, lambda *_: None, 5, lambda _: None)


def everything(layout: Layout) -> dict[str, bytes]:
    """Every file of a mirror but the lock, which is only held."""
    paths = (path for path in layout.root.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in paths}


def refused(layout: Layout, *paths: Path, match: str | None = None) -> None:
    before = everything(layout)
    with pytest.raises(BundleError, match=match):
        take(layout, *paths)
    assert everything(layout) == before


def test_a_mirror_goes_across(near: Layout, far: Layout, flask: Path, click: Path, tmp_path: Path) -> None:
    name = stock(near, flask, click)
    (path,) = export(near, tmp_path)
    assert path.name == f"lockstock-{name}.tar"
    assert (take(far, path).changed, far.snapshots.current_name()) == (True, name)
    assert everything(far) == everything(near)
    again = take(far, path)
    assert (again.changed, again.files, again.snapshot) == (False, 0, name)


def test_only_what_the_other_side_lacks_travels(
    near: Layout, far: Layout, flask: Path, click: Path, wheels: Path, tmp_path: Path
) -> None:
    base = stock(near, flask, click)
    take(far, *export(near, tmp_path))
    newer = make_wheel(wheels, "flask", "2.0")
    stock(near, newer, click)
    (path,) = export(near, tmp_path, since=base)
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 3
    assert take(far, path).files == 1
    assert far.snapshots.current() == near.snapshots.current()
    refused(Layout(tmp_path / "empty"), path, match="lacks 1 file, as click")


def test_an_older_bundle_is_taken_in_but_not_served(
    near: Layout, far: Layout, flask: Path, click: Path, tmp_path: Path
) -> None:
    stock(near, flask)
    old = export(near, tmp_path)
    name = stock(near, flask, click)
    take(far, *old)
    take(far, *export(near, tmp_path))
    assert take(far, *old).changed is False
    assert far.snapshots.current_name() == name


def test_a_damaged_snapshot_keeps_no_bundle_out(
    near: Layout, far: Layout, flask: Path, click: Path, tmp_path: Path
) -> None:
    stock(near, flask)
    (first,) = export(near, tmp_path / "first.tar")
    take(far, first)
    stock(near, flask, click)
    (second,) = export(near, tmp_path / "second.tar")
    (name,) = far.snapshots.names()
    (far.snapshots.root / f"{name}.json").write_text("{")
    assert take(far, second).changed
    assert not take(far, first).changed


def test_old_snapshots_are_pruned_as_by_a_refresh(
    near: Layout, far: Layout, wheels: Path, tmp_path: Path
) -> None:
    for version in range(6):
        stock(near, make_wheel(wheels, "flask", f"1.{version}"))
        take(far, *export(near, tmp_path))
    assert far.snapshots.names() == near.snapshots.names()[1:]
    assert len(list(far.store.digests())) == 5


def test_equal_snapshots_give_equal_bytes_that_tar_reads(
    near: Layout, far: Layout, flask: Path, click: Path, tmp_path: Path
) -> None:
    stock(near, flask, click)
    stock(far, click, flask)
    one, two = export(near, tmp_path / "one.tar"), export(far, tmp_path / "two.tar")
    assert one[0].read_bytes() == two[0].read_bytes()
    listed = subprocess.run(["tar", "-tvf", one[0]], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    assert names == [bundle.INDEX, bundle.MANIFEST, *sorted(names[2:])]
    assert "1970-01-01" in listed.stdout


def test_volumes(near: Layout, far: Layout, wheels: Path, tmp_path: Path) -> None:
    noise = random.Random(3)
    files = [make_wheel(wheels, f"part{n}", "1.0", files={"x": noise.randbytes(20_000)}) for n in range(5)]
    stock(near, *files)
    paths = export(near, tmp_path, capacity=60_000)
    assert len(paths) == 3
    assert all(path.stat().st_size <= 60_000 for path in paths)
    assert paths == sorted(paths)
    refused(far, *reversed(paths), match="is volume 3 of 3, and here volume 1 should be")
    refused(far, *paths[:2], match="only 2 of its 3 volumes")
    refused(far, paths[0], paths[0], paths[1], match="volume 1 of 3, and here volume 2")
    refused(far, *paths, paths[2], match="here volume 4")
    assert take(far, *paths).files == 5
    with pytest.raises(BundleError, match="does not fit"):
        export(near, tmp_path, capacity=10_000)


def test_volumes_of_two_bundles(near: Layout, far: Layout, wheels: Path, tmp_path: Path) -> None:
    noise = random.Random(1)
    a, b, c = (make_wheel(wheels, name, "1", files={"x": noise.randbytes(20_000)}) for name in "abc")
    stock(near, a, b)
    one = export(near, tmp_path / "one.tar", capacity=26_000)
    stock(near, a, c)
    two = export(near, tmp_path / "two.tar", capacity=26_000)
    assert len(one) == len(two) == 2
    refused(far, one[0], two[1], match="another bundle")


@given(st.lists(st.integers(0, 9000), max_size=40), st.integers(12_000, 40_000))
def test_no_volume_is_larger_than_asked_for(sizes: list[int], capacity: int) -> None:
    capacity += 400 * len(sizes)
    manifest = Member(volume=1, sha256="a" * 64, size=300)
    files = [(sha256(bytes([n])).hexdigest(), size) for n, size in enumerate(sizes)]
    index = bundle.plan_volumes(None, manifest, sorted(files), capacity)
    for volume in range(1, index.volumes + 1):
        stored = [(bundle.INDEX, len(index.to_bytes(volume)))]
        stored += [(name, member.size) for name, member in index.of_volume(volume)]
        assert sum(len(bundle.header(n, s)) + -(-s // 512) * 512 for n, s in stored) + 1024 <= capacity
        assert bundle.parse_index(index.to_bytes(volume)) == (index, volume)


def test_any_other_byte_is_refused(near: Layout, far: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    (path,) = export(near, tmp_path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 13):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        with pytest.raises(BundleError):
            take(far, path)
    assert everything(far) == {}


def test_cut_or_with_more_at_its_end(near: Layout, far: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    (path,) = export(near, tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, 511, 512, 700, len(whole) // 2, len(whole) - 1024, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(far, path)
    path.write_bytes(whole + b"\0")
    refused(far, path, match="more after its end")
    refused(far, tmp_path / "nowhere.tar", match="No such file")
    refused(far, tmp_path, match="directory")


def rewritten(path: Path, change: Callable[[list[tarfile.TarInfo]], list[tarfile.TarInfo]]) -> None:
    """Write a tar again with other members; whatever has a size is filled from the old one."""
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        content = {m.name: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]  # all files
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for member in change(members):
            data = content.get(member.name, b"x" * member.size)
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "change",
    [
        lambda members: [*members, entry("../../etc/evil")],
        lambda members: [*members, entry("/etc/evil")],
        lambda members: [*members[:2], entry("sha256/ab/link", tarfile.SYMTYPE, "/etc/passwd"), *members[2:]],
        lambda members: [*members[:2], entry("hard", tarfile.LNKTYPE, bundle.INDEX), *members[2:]],
        lambda members: [*members[:2], entry("null", tarfile.CHRTYPE), *members[2:]],
        lambda members: [*members[:2], entry(members[2].name, tarfile.SYMTYPE, "/etc/passwd")],
        lambda members: members[:-1],
        lambda members: [*members[:2], members[3], members[2]],
        lambda members: [members[1], members[0], *members[2:]],
        lambda members: [*members, members[-1]],
        lambda members: [entry("sha256/ab/link", tarfile.SYMTYPE, "/etc"), *members],
    ],
)
def test_members_that_should_not_be_there(
    near: Layout, far: Layout, flask: Path, click: Path, tmp_path: Path, change: object
) -> None:
    stock(near, flask, click)
    (path,) = export(near, tmp_path)
    rewritten(path, change)  # type: ignore[arg-type]  # a table of lambdas has no better type
    refused(far, path)


def hostile(path: Path, snapshot: Snapshot, content: dict[str, bytes], manifest: bytes | None = None) -> Path:
    """Write a bundle whose digests are all right."""
    manifest = snapshot.to_bytes() if manifest is None else manifest
    files = [Member(volume=1, sha256=key, size=len(data)) for key, data in sorted(content.items())]
    first = Member(volume=1, sha256=sha256(manifest).hexdigest(), size=len(manifest))
    index = Index(base=None, volumes=1, manifest=first, files=tuple(files))
    with path.open("wb") as file:
        bundle.write_small(file, bundle.INDEX, index.to_bytes(1))
        bundle.write_small(file, bundle.MANIFEST, manifest)
        for member in files:
            bundle.write_small(file, bundle.member_name(member.sha256), content[member.sha256])
        bundle.write_end(file)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"filename": "../../../../etc/evil"}, {"filename": ".."}, {"filename": "a\nb"}, {"name": "../x"},
        {"name": "@a/b/c"}, {"name": "@a/../c", "ecosystem": "npm"}, {"name": "index.html"},
        {"name": "Flask"}, {"ecosystem": "gem"}, {"size": "5"},
        {"size": -1}, {"size": 4}, {"version": "1\x1b[2J"}, {"url": ["a"]}, {"filename": 7},
        {"sha256": "A" * 64}, {"requires_python": "\0"},
        {"yanked": "a\x1b[2J"}, {"yanked": ["a"]}, {"upload_time": "yesterday"}, {"upload_time": 5},
    ],
)  # fmt: skip
def test_a_hostile_snapshot_with_right_digests(
    far: Layout, flask: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    good = stocked(flask)
    bad: Stocked = replace(good, **change)  # type: ignore[arg-type]  # wrong types are the point
    snapshot = Snapshot(locks=(), artifacts=(bad,), selections=())
    path = hostile(tmp_path / "evil.tar", snapshot, {good.sha256: flask.read_bytes()})
    refused(far, path, match="snapshot is not one")


RECORD = LockRecord(name="app", path="uv.lock", format="uv.lock", sha256="0" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"locks": (replace(RECORD, name=1),)}, {"locks": (replace(RECORD, path="\x1b[2J"),)},
        {"locks": (RECORD, RECORD)}, {"stale": (1,)}, {"stale": ("b", "a")}, {"inputs": 5},
        {"selections": (Selected(lock="app", target="x", artifacts=("f" * 64,)),)},
        {"selections": (Selected(lock="app", target="x", artifacts=([],)),)},
        {"selections": (Selected(lock="app", target="x", artifacts=(), left=(1,)),)},
    ],
)  # fmt: skip
def test_hostile_locks_with_right_digests(far: Layout, tmp_path: Path, change: dict[str, Any]) -> None:
    snapshot = replace(snapshot_of([]), **change)
    refused(far, hostile(tmp_path / "evil.tar", snapshot, {}), match="snapshot is not one")


def test_files_out_of_order(far: Layout, wheels: Path, tmp_path: Path) -> None:
    wheel = [make_wheel(wheels, name, "1.0") for name in ("b", "a")]
    snapshot = replace(snapshot_of([]), artifacts=tuple(map(stocked, wheel)))
    content = {stocked(file).sha256: file.read_bytes() for file in wheel}
    refused(far, hostile(tmp_path / "evil.tar", snapshot, content), match="not in order")


def test_a_manifest_larger_than_a_volume() -> None:
    manifest = Member(volume=1, sha256="a" * 64, size=40_000)
    with pytest.raises(ValueError, match="the list of files alone does not fit"):
        bundle.plan_volumes(None, manifest, [("b" * 64, 10)], 30_000)


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b'{"schema": 99}', b"[" * 100_000, b"\xff"])
def test_a_manifest_that_is_none(far: Layout, tmp_path: Path, manifest: bytes) -> None:
    refused(far, hostile(tmp_path / "evil.tar", snapshot_of([]), {}, manifest), match="not one")


def test_a_file_that_the_snapshot_does_not_name(far: Layout, flask: Path, tmp_path: Path) -> None:
    path = hostile(tmp_path / "evil.tar", snapshot_of([]), {stocked(flask).sha256: flask.read_bytes()})
    refused(far, path, match="says nothing of")


@pytest.mark.parametrize(
    "change",
    [
        {"volumes": 10**9}, {"volumes": True}, {"volume": 0}, {"volume": 2}, {"schema": 2}, {"extra": 1},
        {"files": [{"volume": 1, "sha256": "../x", "size": 1}]}, {"files": 5}, {"manifest": None},
        {"manifest": {"volume": 1, "sha256": "a" * 64, "size": 1 << 40}},
        {"files": [{"volume": 1, "sha256": "a" * 64, "size": True}]},
        {"files": [{"volume": 1, "sha256": "a" * 64, "size": -1}]},
        {"files": [{"volume": 1, "sha256": "a" * 64, "size": 1}] * 2},
        {"base": 5}, {"base": "x"}, {"base": ["a" * 64]},
    ],
)  # fmt: skip
def test_a_list_that_makes_no_sense(change: dict[str, object]) -> None:
    index = Index(base=None, volumes=1, manifest=Member(volume=1, sha256="b" * 64, size=1), files=())
    content = {**json.loads(index.to_bytes(1)), **change}
    with pytest.raises(ValueError):
        bundle.parse_index((json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def test_damage_is_never_exported(near: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    held = near.store.path(stocked(flask).sha256)
    held.chmod(0o644)
    held.write_bytes(b"x" * held.stat().st_size)
    with pytest.raises(DamageError, match=r"flask-1\.0-py3-none-any\.whl: cannot be exported: it is damaged"):
        export(near, tmp_path)
    held.unlink()
    with pytest.raises(DamageError, match=r"flask-1\.0-py3-none-any\.whl: .*: it is not there"):
        export(near, tmp_path)
    assert list(tmp_path.glob("*lockstock*")) == []


def test_a_bundle_follows_links_and_replaces_no_device(near: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    with pytest.raises(StoreError, match="fifo: cannot be written: it is no plain file"):
        export(near, fifo)
    assert fifo.is_fifo()
    link.symlink_to("there.tar")
    export(near, link)
    assert link.is_symlink()
    assert take(Layout(tmp_path / "far"), tmp_path / "there.tar").files == 1


def test_a_full_disk_is_that_of_the_bundle(near: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mirror.errors import DiskFullError\n"
        "from mirror.layout import Layout\n"
        "from tests.mirror.test_bundle import export\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        "try: export(Layout(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "except DiskFullError as error: print(error.hint)\n"
    )
    command = [sys.executable, "-c", code, str(near.root), str(tmp_path / "out.tar")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ended.stdout == "free some space, or give another --to\n"
    assert list(tmp_path.glob("*out.tar*")) == []


def test_killed_at_any_step_and_run_again(near: Layout, wheels: Path, tmp_path: Path) -> None:
    name = stock(near, *(make_wheel(wheels, f"part{n}", "1.0") for n in range(3)))
    (path,) = export(near, tmp_path)
    moment = 0
    while True:
        far = Layout(tmp_path / f"far{moment}")
        if not steps_until_killed(lambda: take(far, path), moment):  # noqa: B023 - used at once
            break
        assert far.snapshots.current_name() in (None, name)
        take(far, path)
        assert everything(far) == everything(near), f"step {moment}"
        moment += 1
    assert moment > 5, "the steps were not seen"


def test_a_killed_export_leaves_no_bundle(near: Layout, flask: Path, tmp_path: Path) -> None:
    stock(near, flask)
    whole = export(near, tmp_path / "whole.tar")[0].read_bytes()
    moment = 0
    while steps_until_killed(lambda: export(near, tmp_path / "new.tar"), moment):
        written = tmp_path / "new.tar"
        assert not written.exists() or written.read_bytes() == whole
        moment += 1
    assert (tmp_path / "new.tar").read_bytes() == whole
    assert list(tmp_path.glob(".*.part")) == []


def test_memory_stays_flat(near: Layout, far: Layout, tmp_path: Path) -> None:
    big = tmp_path / "big-1.0-py3-none-any.whl"
    big.write_bytes(random.Random(5).randbytes(1 << 20) * 40)
    stock(near, big)
    tracemalloc.start()
    take(far, *export(near, tmp_path / "big.tar"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_across_the_gap_as_a_user(project: Project, flask: Path, click: Path, tmp_path: Path) -> None:
    near = Layout(tmp_path / "near")
    name = stock(near, flask, click)
    project.lock(flask)
    there = project.folder.parent / "there"
    there.mkdir()
    other = Project(there, project.port, project.environment)
    other.configure(mirror=f"path = {str(near.root)!r}")
    other.lock(flask)
    ended = other.mirror("export", "--to", str(tmp_path / "out.tar"), "--volume-size", "1MB", "--json")
    assert ended.returncode == 0, ended.stderr
    (volume,) = json.loads(ended.stdout)["volumes"]
    ended = other.mirror("export", "--to", f"{tmp_path / 'made' / 'for it'}/")
    assert ended.stdout == f"{tmp_path / 'made' / 'for it' / f'lockstock-{name}.tar'}\n"
    ended = project.mirror("import", volume, "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) | {"size": 0} == {
        "snapshot": name,
        "changed": True,
        "files": 2,
        "size": 0,
    }
    assert project.mirror("import", str(flask)).returncode == 35
    project.config.write_text("")  # which names no lock
    assert project.mirror("pin", "current").returncode == 0
    (listed,) = json.loads(project.mirror("snapshots", "--json").stdout)
    assert (listed["name"], listed["artifacts"], listed["current"], listed["pinned"]) == (name, 2, True, True)
    assert "pinned" in project.mirror("snapshots").stdout
    for wrong in ("4X", "i", "-1", "4iB"):
        assert other.mirror("export", "--to", "x.tar", f"--volume-size={wrong}").returncode == 2
