from __future__ import annotations

import gzip
import random
import zipfile
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.archive import Deflated, gzip_member
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


# As far as text can be compressed, and long enough to be worth keeping.
TEXT = random.Random(1).randbytes(60_000).hex().encode()


def deflate(data: bytes, before: bytes = b"") -> bytes:
    """Give a raw deflate stream, which may refer to what is not in it."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=before)
    return compressor.compress(data) + compressor.flush()


def holding(stream: bytes, data: bytes) -> bytes:
    """Give an archive with a member that has this stream and says that it is this data."""
    made = bytearray(archive(stream, zipfile.ZIP_STORED))
    entry = made.index(b"PK\x01\x02")
    made[8:10] = made[entry + 10 : entry + 12] = zipfile.ZIP_DEFLATED.to_bytes(2, "little")
    for place in (14, entry + 16):
        made[place : place + 4] = zlib.crc32(data).to_bytes(4, "little")
    for place in (22, entry + 24):
        made[place : place + 4] = len(data).to_bytes(4, "little")
    return bytes(made)


def content(made: bytes) -> bytes | Deflated:
    with Zip(BytesIO(made)) as opened:
        return opened.member("member").content


def test_a_long_stream_is_kept() -> None:
    stream = deflate(TEXT)
    member = gzip_member(stream, zlib.crc32(TEXT), len(TEXT))
    assert content(holding(stream, TEXT)) == Deflated(plain=TEXT, member=member)
    assert gzip.decompress(member) == TEXT


def unended(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def lax() -> tuple[bytes, bytes]:
    """Give a stream, and what it unfolds to, whose last block has codes that zlib takes for incomplete."""
    block = bytes.fromhex("0dc1010d00000cc230ad6304ff12fe1e74c43c66348f160e")
    with pytest.raises(zlib.error, match="invalid distances set"):
        zlib.decompress(block, -15)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = compressor.compress(TEXT) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + block, TEXT + b"aaccfabcbbbbafcbccbbbbaddaa"


TAIL = gzip_member(b"", zlib.crc32(TEXT), len(TEXT))[-8:]
NOT_KEPT = {
    "not taken by all who pull": lax(),
    "the end of a gzip member after its end": (deflate(TEXT) + TAIL, TEXT),
    "the same, and more": (deflate(TEXT) + TAIL + b"x", TEXT),
    "short": (deflate(TEXT[:1000]), TEXT[:1000]),
    "longer than what it has": (zlib.compress(TEXT, 0, wbits=-15), TEXT),
    "something after its end": (deflate(TEXT) + b"x", TEXT),
    "another stream after its end": (deflate(TEXT) + deflate(TEXT), TEXT),
    "no end": (unended(TEXT), TEXT),
}


@pytest.mark.parametrize(("stream", "data"), NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_a_stream_that_is_no_member_of_a_gzip_file_is_not_kept(stream: bytes, data: bytes) -> None:
    assert content(holding(stream, data)) == data


DAMAGED = {
    "it refers to what is before its start": deflate(TEXT, before=TEXT[-30_000:]),
    "cut off": deflate(TEXT)[:-100],
    "another content": deflate(TEXT[:-1] + b"!"),
}


@pytest.mark.parametrize("stream", DAMAGED.values(), ids=DAMAGED.keys())
def test_refuses_a_stream(stream: bytes) -> None:
    with pytest.raises(zipfile.BadZipFile, match="'member'"):
        content(holding(stream, TEXT))


def test_the_far_reference_is_one() -> None:
    """A reader with something before the stream would be content with it."""
    stream = deflate(TEXT, before=TEXT[-30_000:])
    assert zlib.decompressobj(-15, zdict=TEXT[-30_000:]).decompress(stream) == TEXT
