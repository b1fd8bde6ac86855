"""What zipfile finds in a zip that was cut down is what it finds in the whole one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.narrow import narrowed

SUFFIX = "/METADATA"
MEMBERS = {
    "it/__init__.py": b"", "it.dist-info/METADATA": b"Name: it\n" * 99, "it/METADATA": b"x", "METADATA": b"y",
}  # fmt: skip


def make(path: Path, *, comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
        archive.comment = comment
    return path


def found(path: Path, *, cut: bool) -> dict[str, bytes | str]:
    """Give what can be read of the wanted members, or why one cannot."""
    contents: dict[str, bytes | str] = {}
    with (
        narrowed(path, SUFFIX.encode()) if cut else path.open("rb") as file,
        zipfile.ZipFile(file) as archive,
    ):
        for entry in archive.infolist():
            if entry.filename.endswith(SUFFIX):
                try:
                    contents[entry.filename] = archive.read(entry)
                except Exception as error:
                    contents[entry.filename] = type(error).__name__
    return contents


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_what_is_wanted_is_in_it(tmp_path: Path, method: int) -> None:
    path = make(tmp_path / "it.whl", method=method)
    with narrowed(path, SUFFIX.encode()) as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["it.dist-info/METADATA", "it/METADATA"]
        assert archive.testzip() is None
    assert found(path, cut=True) == found(path, cut=False)


def test_what_is_not_plain_comes_as_it_is(tmp_path: Path) -> None:
    before = tmp_path / "it.exe"
    before.write_bytes(b"#!/bin/sh\n" + make(tmp_path / "it.whl").read_bytes())
    for path in (before, make(tmp_path / "told.whl", comment=b"hello")):
        with narrowed(path, SUFFIX.encode()) as file:
            assert file.read() == path.read_bytes()
        assert found(path, cut=True) == found(path, cut=False)


def test_members_take_no_more_memory_than_metadata_may(tmp_path: Path) -> None:
    path = tmp_path / "large.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("it.dist-info/METADATA", bytes((16 << 20) + 1))
    with narrowed(path, SUFFIX.encode()) as file:
        assert Path(file.name) == path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(data=st.data())
def test_of_damaged_ones_too(tmp_path: Path, data: st.DataObject) -> None:
    path = make(tmp_path / "it.whl")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(directory, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        whole = found(path, cut=False)
    except Exception:
        return  # a cut one may be readable: what is wrong may be with the others
    assert found(path, cut=True) == whole
