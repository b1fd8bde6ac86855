from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.publish import metadata
from tests.wheels import make_sdist, make_wheel
from tests.wheels import metadata as metadata_text


def read(path: Path):
    return metadata.read(path, path.name)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, linkname
    return entry


def test_of_a_wheel(tmp_path):
    found = read(make_wheel(tmp_path, "lockstock-it", "1.0", ["idna>=3"], requires_python=">=3.9"))
    assert found["name"] == "lockstock-it"
    assert found["requires_python"] == ">=3.9"
    assert found["requires_dist"] == ["idna>=3"]


def test_of_an_sdist_wherever_it_stands_in_it(tmp_path):
    assert read(make_sdist(tmp_path, "lockstock-it", "1.0"))["version"] == "1.0"
    late = tar(
        tmp_path / "late-1.0.tar.gz",
        (member("late-1.0/vendored/PKG-INFO"), metadata_text("vendored", "9").encode()),
        (member("late-1.0/PKG-INFO"), metadata_text("late", "1.0").encode()),
    )
    assert read(late)["name"] == "late"


def test_of_a_zipped_sdist(tmp_path):
    with zipfile.ZipFile(tmp_path / "old-1.0.zip", "w") as archive:
        archive.writestr("old-1.0/PKG-INFO", metadata_text("old", "1.0"))
    assert read(tmp_path / "old-1.0.zip")["name"] == "old"


@pytest.mark.parametrize(
    "filename", ["a-1.tar.bz2", "a-1.exe", "a-1-py3-none-any.whl", "a-1.tar.gz", "a-1.zip"]
)
def test_what_cannot_be_read_has_none(tmp_path, filename):
    (tmp_path / filename).write_bytes(b"not an archive")
    assert read(tmp_path / filename) is None
    assert metadata.read(tmp_path / "missing", filename) is None


def test_metadata_that_is_too_long_is_none(tmp_path):
    big = b"Name: it\nVersion: 1\n\n" + bytes(metadata.METADATA_LIMIT)
    wheel = make_wheel(tmp_path, "it", "1", files={})
    with zipfile.ZipFile(tmp_path / "big-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big-1.dist-info/METADATA", big)
    assert read(wheel) is not None
    assert read(tmp_path / "big-1-py3-none-any.whl") is None
    assert read(tar(tmp_path / "big-1.tar.gz", (member("big-1/PKG-INFO"), big))) is None


def test_a_bomb_is_given_up_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "SCAN_LIMIT", 1 << 20)
    bomb = tar(
        tmp_path / "bomb-1.tar.gz",
        (member("bomb-1/zeros"), bytes(2 << 20)),
        (member("bomb-1/PKG-INFO"), metadata_text("bomb", "1").encode()),
    )
    assert bomb.stat().st_size < 10_000
    assert read(bomb) is None
    endless = tarfile.TarInfo("bomb-1/pax")
    endless.type, endless.size = tarfile.XHDTYPE, 1 << 40  # a header that claims a terabyte
    with gzip.open(tmp_path / "pax-1.tar.gz", "wb") as file:
        file.write(endless.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20))
    assert read(tmp_path / "pax-1.tar.gz") is None


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_metadata_that_is_no_file_is_none(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_text("Name: secret\n")
    path = tar(tmp_path / "it-1.tar.gz", (member("it-1/PKG-INFO", kind, str(secret)), b""))
    assert read(path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["whl", "tar.gz"]))
def test_damaged_archives_raise_nothing(tmp_path, data, kind):
    make = make_wheel if kind == "whl" else make_sdist
    path = make(tmp_path, "lockstock-it", "1.0")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    read(path)
