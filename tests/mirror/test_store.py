"""The store takes whole, matching files and nothing else."""

from __future__ import annotations

from errno import EACCES
from hashlib import md5, sha256, sha512
from pathlib import Path

import pytest

from lockfiles.model import Digest
from mirror.errors import DigestMismatchError, OversizedError, StoreError, TruncatedError
from mirror.store import Expected, Store, disk_errors, write_all, write_atomically

DATA = b"the bytes of a wheel"
SHA256 = Digest("sha256", sha256(DATA).hexdigest())
SHA512 = Digest("sha512", sha512(DATA).hexdigest())
MD5 = Digest("md5", md5(DATA).hexdigest())
OTHER = Digest("sha256", "0" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def take(store: Store, data: bytes = DATA, **expected: object) -> str:
    with store.receive(Expected(label="a.whl", **expected)) as incoming:  # type: ignore[arg-type]
        for start in range(0, len(data), 7):
            incoming.write(data[start : start + 7])
        return store.keep(incoming)


def test_keeps_what_matches(store: Store) -> None:
    assert take(store, digests=(SHA256, MD5), size=len(DATA)) == SHA256.value
    assert store.path(SHA256.value).read_bytes() == DATA
    assert list(store.digests()) == [SHA256.value]
    assert not list(store.incoming.iterdir())


def test_finds_a_file_again_by_sha512_alone(store: Store) -> None:
    assert store.find([SHA512]) is None
    take(store, digests=(SHA512,))
    assert store.find([SHA512]) == SHA256.value
    store.remove(SHA256.value)
    assert store.find([SHA512]) is None


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        ({"digests": (OTHER,)}, DigestMismatchError),
        ({"digests": (SHA256, Digest("md5", "0" * 32))}, DigestMismatchError),
        ({"any_of": (OTHER,)}, DigestMismatchError),
        ({"digests": (MD5,)}, DigestMismatchError),
        ({}, DigestMismatchError),
        ({"digests": (SHA256,), "size": len(DATA) + 1}, TruncatedError),
        ({"digests": (SHA256,), "size": len(DATA) - 1}, OversizedError),
        ({"digests": (SHA256,), "limit": 5}, OversizedError),
    ],
)
def test_refuses_all_else_and_leaves_nothing(
    store: Store, expected: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"a\.whl"):
        take(store, **expected)
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_one_of_several_digests_is_enough_where_the_lock_names_no_files(store: Store) -> None:
    assert take(store, any_of=(OTHER, SHA256)) == SHA256.value


def test_a_transfer_that_starts_again_forgets_the_first_bytes(store: Store) -> None:
    with store.receive(Expected(label="a.whl", digests=(SHA256,), size=len(DATA))) as incoming:
        incoming.write(b"other bytes")
        incoming.restart()
        incoming.write(DATA)
        assert store.keep(incoming) == SHA256.value
    assert store.path(SHA256.value).read_bytes() == DATA


def test_what_was_noted_of_a_lost_file_is_forgotten(store: Store) -> None:
    with store.receive(Expected(label="x", digests=(SHA512,))) as incoming:
        incoming.write(DATA)
        sha256 = store.keep(incoming)
    store.forget()
    assert store.find([SHA512]) == sha256
    store.remove(sha256)
    store.forget()
    assert [path for path in (store.root / "sha512").rglob("*") if path.is_symlink()] == []


def test_sweeps_what_a_killed_run_left(store: Store) -> None:
    store.incoming.mkdir(parents=True)
    (store.incoming / "tmpabc").write_bytes(b"half")
    store.sweep()
    assert not list(store.incoming.iterdir())


def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    write_atomically(file, b"old")
    with pytest.raises(TypeError):
        write_atomically(file, None)  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_files_that_are_written_together(tmp_path: Path) -> None:
    write_all(tmp_path / "blobs", {"a": b"1", "b": b"2"})
    with pytest.raises(TypeError):
        write_all(tmp_path / "blobs", {"b": b"3", "c": None})

    assert {file.name: file.read_bytes() for file in (tmp_path / "blobs").iterdir()} == {"a": b"1", "b": b"3"}


@pytest.mark.parametrize("place", ["taken", "taken/below", "."])
def test_a_file_in_the_place_of_a_folder_and_a_folder_in_that_of_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_bytes(b"")

    with pytest.raises(StoreError, match="cannot be used"):
        write_atomically(tmp_path / place / "file" if place != "." else tmp_path, b"data")


def test_a_folder_that_takes_no_file_is_named_itself(tmp_path: Path) -> None:
    """And not the file in it that only we know of."""
    with pytest.raises(StoreError) as caught, disk_errors(tmp_path):
        raise PermissionError(EACCES, "Permission denied", str(tmp_path / "held" / ".w2k.tmp"))

    assert (caught.value.where, caught.value.reason) == (
        str(tmp_path / "held"),
        "cannot be used: Permission denied",
    )
