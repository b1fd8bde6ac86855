"""Parts of a file that are sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imagegen.pieces import FilePiece


@pytest.mark.parametrize(("start", "size"), [(0, 5), (1 << 20, 1 << 19), (3, (1 << 20) + 7), (5, 0)])
def test_the_bytes_of_a_part_each_time(tmp_path: Path, start: int, size: int) -> None:
    content = os.urandom(2 << 20)
    (tmp_path / "blob").write_bytes(content)

    piece = FilePiece(tmp_path / "blob", start, size)

    assert b"".join(piece) == b"".join(piece) == content[start : start + size]


def test_what_is_said_of_it(tmp_path: Path) -> None:
    piece = FilePiece(tmp_path / "blob", 16, 8)

    assert (piece.headers["Content-Length"], piece.range["Content-Range"]) == ("8", "16-23")


def test_a_file_that_has_become_shorter_comes_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"short")

    assert b"".join(FilePiece(tmp_path / "blob", 2, 100)) == b"ort"
