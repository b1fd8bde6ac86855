from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.zipped import Zip


def archive(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("member", data)
    return buffer.getvalue()


@given(
    st.binary() | st.binary(min_size=1, max_size=9).map(lambda data: data * 20_000),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
def test_gives_what_zipfile_gives(data: bytes, method: int) -> None:
    with Zip(BytesIO(archive(data, method))) as opened:
        assert opened.read("member") == data
        with opened.open(opened.getinfo("member")) as stream:
            assert stream.read() == data


def fields(made: bytes, *, size: int | None = None, crc: int | None = None) -> bytes:
    """Change what the table of contents says of the one member."""
    entry = made.index(b"PK\x01\x02")
    changed = bytearray(made)
    if crc is not None:
        changed[entry + 16 : entry + 20] = crc.to_bytes(4, "little")
    if size is not None:
        changed[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    return bytes(changed)


def damaged(made: bytes) -> bytes:
    start = made.index(b"member") + len(b"member")
    return made[:start] + b"\xff\xff" + made[start + 2 :]


LONG = bytes(1 << 20)
BAD = {
    "it unfolds to more than is said": fields(archive(LONG), size=1000),
    "it unfolds to less than is said": fields(archive(LONG), size=len(LONG) + 1),
    "another digest": fields(archive(LONG), crc=1),
    "no deflate stream": damaged(archive(LONG)),
}


@pytest.mark.parametrize("made", BAD.values(), ids=BAD.keys())
def test_refuses(made: bytes) -> None:
    with Zip(BytesIO(made)) as opened, pytest.raises(zipfile.BadZipFile, match="'member'"):
        opened.read("member")
