from __future__ import annotations

import gzip
import io
import subprocess
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagegen.archive import Deflated, Piece, gzip_member, plainly
from imagegen.compression import Compression, plain
from imagegen.layers import Content, Layer, Layers

MIB = 1 << 20


def deflated(data: bytes, level: int = 6) -> Deflated:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    stream = compressor.compress(data) + compressor.flush()
    return Deflated(plain=data, member=gzip_member(stream, zlib.crc32(data), len(data)))


LONG = st.binary(min_size=1, max_size=9).flatmap(
    lambda data: st.sampled_from([70_000, MIB]).map(lambda size: (data * (size // len(data) + 1))[:size])
)
PIECES = st.lists(
    st.one_of(st.binary(max_size=2000), LONG)
    | st.builds(deflated, st.binary(max_size=2000) | LONG, st.integers(0, 9)),
    max_size=8,
)


def written(root: Path, pieces: Sequence[Piece], compression: Compression, *, dense: bool = False) -> Layer:
    content = Content(tar=pieces, facts={}, dense=dense)
    recipe = [sha256(repr(pieces).encode()).hexdigest(), dense]
    return Layers(root, compression).get(recipe, "", lambda: content)[0]


@settings(max_examples=30, deadline=None)
@given(pieces=PIECES, compression=st.sampled_from(Compression), dense=st.booleans())
def test_a_layer_unfolds_to_its_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[Piece], compression: Compression, *, dense: bool
) -> None:
    expected = b"".join(plainly(pieces))

    roots = [tmp_path_factory.mktemp("mirror") for _ in range(2)]
    layer, again = (written(root, pieces, compression, dense=dense) for root in roots)

    assert layer == again
    assert layer.diff_id == f"sha256:{sha256(expected).hexdigest()}"
    assert layer.unpacked == len(expected)
    file = Layers(roots[0]).path(layer.digest)
    assert sha256(file.read_bytes()).hexdigest() == layer.digest.removeprefix("sha256:")
    assert b"".join(plain(file)) == expected
    if compression is Compression.GZIP:
        assert gzip.decompress(file.read_bytes()) == expected


def test_other_readers_read_spliced_layers(tmp_path: Path) -> None:
    pieces = [
        b"before" * 9,
        deflated(bytes(9 * MIB)),
        deflated(b"text" * MIB),
        bytes(8 * MIB + 1),
        deflated(b""),
    ]
    layer = written(tmp_path, pieces, Compression.GZIP)
    file = Layers(tmp_path).path(layer.digest)
    expected = b"".join(plainly(pieces))

    subprocess.run(["gzip", "--test"], stdin=file.open("rb"), check=True)
    assert subprocess.run(["gzip", "-dc"], stdin=file.open("rb"), capture_output=True).stdout == expected
    with gzip.open(io.BytesIO(file.read_bytes())) as stream:
        assert stream.read(MIB + 1) + stream.read() == expected


def test_a_stream_is_taken_as_it_is_by_gzip_only(tmp_path: Path) -> None:
    """It is not compressed at all here, so both can be told apart."""
    piece = deflated(bytes(MIB), level=0)
    kept, anew = (written(tmp_path, [piece], compression) for compression in Compression)
    layers = Layers(tmp_path)
    assert piece.member in layers.path(kept.digest).read_bytes()
    assert anew.size < 1000


def test_what_is_dense_is_smaller(tmp_path: Path) -> None:
    text = b"".join(sha256(bytes([number % 251])).hexdigest().encode() for number in range(20_000))
    usual, dense = (written(tmp_path, [text], Compression.GZIP, dense=dense) for dense in (False, True))
    assert dense.diff_id == usual.diff_id
    assert dense.size < usual.size
