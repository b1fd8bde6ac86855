from __future__ import annotations

import io
import posixpath
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.errors import BaseError, UnfitBaseError
from imagegen.rootfs import File, read_rootfs
from tests.imagegen.base_layout import base_files, tar

WANTED = "usr/lib/python3/venv/scripts/common/"
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
names = st.sampled_from(
    [
        "etc/shadow",
        "./etc/shadow",
        "etc//shadow",
        "etc/./shadow",
        "etc/shadow/",
        "etc/shadow.old",
        "usr/bin/node",
        f"{WANTED}activate",
        f"{WANTED}{'a' * 100}",
        f"{'b/' * 70}{'c' * 90}",
        f"{WANTED}ä",
        "ß" * 80,
    ]
)
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
members = st.lists(st.tuples(names, kinds, st.binary() | st.just(b"x" * 1024), st.integers(0, 2**22)))


def archive(found: list[tuple[str, bytes, bytes, int]], form: int, start: bytes) -> bytes:
    """Give a tar that begins with another one, which has no end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as made:
        for name, kind, content, owner in found:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.uid = kind, "usr/bin" if kind in b"12" else "", owner
            info.size = len(content) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
            try:
                made.addfile(info, io.BytesIO(content))
            except ValueError:  # this form has no place for it
                continue
    return start.rstrip(b"\0").ljust(-(-len(start.rstrip(b"\0")) // 512) * 512, b"\0") + buffer.getvalue()


@given(members, st.sampled_from(FORMATS))
def test_it_reads_what_tarfile_reads(found: list[tuple[str, bytes, bytes, int]], form: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "base.tar")
        path.write_bytes(archive(found, form, tar(base_files(Path(folder), "amd64"))))
        with tarfile.open(path) as opened:
            expected = {posixpath.normpath(member.name): member for member in opened if member.isreg()}
            everything = {posixpath.normpath(member.name) for member in opened}
            shadow = [
                File(content=opened.extractfile(one).read(), mode=one.mode, owner=(one.uid, one.gid))
                for one in opened
                if posixpath.normpath(one.name) == "etc/shadow" and one.isreg()
            ]

        root = read_rootfs(path)

    scripts = {name for name in expected if name.startswith(WANTED)}
    assert {name for name in root.files if name.startswith(WANTED)} == scripts
    assert root.files.get("etc/shadow") == (shadow[-1] if shadow else None)
    assert root.programs == {"node"} & {name.removeprefix("usr/bin/") for name in everything}


@pytest.mark.parametrize("cut", [1, 600, 1100])
def test_an_end_that_is_missing(tmp_path: Path, cut: int) -> None:
    whole = tar({"etc/a": b"x" * 700}).rstrip(b"\0")
    (tmp_path / "base.tar").write_bytes(whole[:cut])

    with pytest.raises(BaseError, match="no readable tar"):
        read_rootfs(tmp_path / "base.tar")


@pytest.mark.parametrize("size", [b"-0000000001\0", b"9" * 12, b"\xff" * 12, b"1_0".ljust(12, b"\0")])
def test_a_size_that_is_no_number_leads_nowhere(tmp_path: Path, size: bytes) -> None:
    whole = tar({**base_files(tmp_path, "amd64")})
    last = whole.index(b"usr/bin/python3.11")
    (tmp_path / "base.tar").write_bytes(whole[: last + 124] + size + whole[last + 136 :])

    with pytest.raises(UnfitBaseError):  # what comes after it is not found
        read_rootfs(tmp_path / "base.tar")
