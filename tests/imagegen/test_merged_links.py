"""Layers that are large or strange on purpose: what merging them costs is bounded."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import pytest

from imagegen import merged
from imagegen.errors import BaseError
from tests.imagegen.base_layout import tar


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info.tobuf() + content + bytes(-len(content) % 512)


def merge(folder: Path, layer: bytes) -> dict[str, tarfile.TarInfo]:
    (folder / "layer").write_bytes(layer)
    out = io.BytesIO()
    merged.merge([folder / "layer"], out, "oci:base")
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        return {found.name.removeprefix("./"): found for found in archive}


def test_a_link_leads_to_what_had_the_name_before_it(tmp_path: Path) -> None:
    layer = b"".join(
        [
            member("./", tarfile.DIRTYPE),
            member("a", content=b"1"),
            member("b", tarfile.LNKTYPE, "./a"),
            member("c", tarfile.LNKTYPE, "/b"),
            member("a", content=b"22"),
            member("soft", tarfile.SYMTYPE, "a"),
            member("d", tarfile.LNKTYPE, "soft"),
            member("e", tarfile.LNKTYPE, "later"),
            member("f", tarfile.LNKTYPE, "/"),
            member("later", content=b"333"),
            bytes(1024),
        ]
    )

    found = merge(tmp_path, layer)

    assert {name: one.size for name, one in found.items() if one.isreg()} == {
        "a": 2, "b": 1, "c": 1, "later": 3,
    }  # fmt: skip
    assert {name: one.linkname for name, one in found.items() if one.issym()} == {"soft": "a", "d": "a"}
    assert {"e", "f"}.isdisjoint(found)


def test_many_links_take_no_time(tmp_path: Path) -> None:
    """Were the members searched for each link, it would take far longer."""
    files = [member(f"file{number}") for number in range(8_000)]
    links = [member(f"link{number}", tarfile.LNKTYPE, "file0") for number in range(8_000)]
    started = time.process_time()

    assert len(merge(tmp_path, b"".join([*files, *links, bytes(1024)]))) == 16_000
    assert time.process_time() - started < 10


def test_headers_are_counted_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have one name, and the tar is cut off after the last that may be read."""
    monkeypatch.setattr(merged, "_MOST_FILES", 10)

    with pytest.raises(BaseError, match="hold far too much"):
        merge(tmp_path, member("f") * 11 + member("f", content=b"cut off" * 100)[:600])


def test_a_time_that_is_none(tmp_path: Path) -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {"mtime": "inf"}

    with pytest.raises(BaseError, match="no readable tar"):
        merge(tmp_path, info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))


def test_what_is_linked_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged, "_MOST_BYTES", 100)
    links = {str(number): (tarfile.LNKTYPE, "file") for number in range(10)}

    assert len(merge(tmp_path, tar({"file": b"x" * 9}, links))) == 11
    with pytest.raises(BaseError, match="hold far too much"):
        merge(tmp_path, tar({"file": b"x" * 10}, links))
