"""Snapshots: equal content gives equal bytes, and the switch is atomic."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import StoreError
from mirror.snapshot import LockRecord, Selected, Snapshot, Snapshots, Stocked


def stocked(name: str, version: str = "1.0") -> Stocked:
    digest = (name.encode().hex() * 64)[:64]
    return Stocked(
        ecosystem="pypi",
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256=digest,
        size=10,
        url="https://files.example/x",
    )


def snapshot(*names: str) -> Snapshot:
    lock = LockRecord(name="app", path="requirements.txt", format="requirements.txt", sha256="0" * 64)
    artifacts = [stocked(name) for name in names]
    chosen = tuple(sorted(a.sha256 for a in artifacts))
    return Snapshot.of([lock], artifacts, [Selected(lock="app", target="3.11/linux/amd64", artifacts=chosen)])


names = st.lists(st.text("abcdefgh", min_size=1, max_size=6), unique=True, max_size=6)


@given(names, st.randoms())
def test_the_order_of_parts_does_not_matter(found: list[str], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert snapshot(*shuffled).to_bytes() == snapshot(*found).to_bytes()


@given(names)
def test_reads_what_it_writes(found: list[str]) -> None:
    assert Snapshot.from_bytes(snapshot(*found).to_bytes()) == snapshot(*found)


def test_reading_takes_little_more_room_than_what_is_read(tmp_path: Path) -> None:
    shelf = Snapshots(tmp_path)
    name = shelf.add(snapshot(*map(str, range(3000))))
    tracemalloc.start()
    try:
        read = shelf.load(name)
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(read.artifacts) == 3000
    assert most < left + 1.5 * (tmp_path / f"{name}.json").stat().st_size


def test_manifests_from_before_keep_their_bytes() -> None:
    plain = snapshot("a")
    assert b"yanked" not in plain.to_bytes()
    assert b"upload_time" not in plain.to_bytes()
    told = replace(plain.artifacts[0], yanked="broken", upload_time="2026-01-02T03:04:05Z")
    again = replace(plain, artifacts=(told,))
    assert Snapshot.from_bytes(again.to_bytes()) == again


def test_one_file_of_two_locks_has_all_that_either_knows() -> None:
    (plain,) = snapshot("a").artifacts
    told = replace(plain, requires_python=">=3.8", yanked=True, upload_time="2026-01-02T03:04:05Z")
    for order in ([plain, told], [told, plain]):
        assert Snapshot.of([], order, []).artifacts == (told,)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"schema": 2}', b'{"schema": 1, "locks": [{}]}', b"\xff"]
)
def test_refuses_what_is_no_snapshot(data: bytes) -> None:
    with pytest.raises(ValueError):
        Snapshot.from_bytes(data)


def test_chooses_by_lock_and_target() -> None:
    made = snapshot("a", "b")
    assert [a.name for a in made.chosen(["app"], "3.11/linux/amd64")] == ["a", "b"]
    assert made.chosen(["app"], "3.12/linux/amd64") == made.chosen(["other"], "3.11/linux/amd64") == ()


def test_equal_content_is_one_snapshot_and_names_count_up(tmp_path: Path) -> None:
    shelf = Snapshots(tmp_path)
    first = shelf.add(snapshot("a"))
    assert shelf.add(snapshot("a")) == first
    second = shelf.add(snapshot("b"))
    third = shelf.add(snapshot("a"))
    assert [name.partition("-")[0] for name in (first, second, third)] == ["0001", "0002", "0003"]
    assert shelf.names() == (first, second, third)


def test_current_is_switched_whole(tmp_path: Path) -> None:
    shelf = Snapshots(tmp_path)
    assert shelf.current() is None
    for made in (snapshot("a"), snapshot("b")):
        shelf.switch(shelf.add(made))
        assert shelf.current() == made
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_names_go_on_in_order_past_four_digits(tmp_path: Path) -> None:
    for number in (9999, 10000):
        (tmp_path / f"{number}-aaaaaaaaaaaa.json").write_bytes(snapshot("a").to_bytes())
    assert Snapshots(tmp_path).add(snapshot("b")).startswith("10001-")


def test_a_damaged_or_missing_manifest_is_told(tmp_path: Path) -> None:
    shelf = Snapshots(tmp_path)
    (tmp_path / "0001-bad.json").write_text("{")
    for name in ("0001-bad", "0002-none"):
        with pytest.raises(StoreError):
            shelf.load(name)
