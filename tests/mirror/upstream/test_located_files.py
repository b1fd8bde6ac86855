"""What indexes said is remembered by the digests it was asked for, and safe to be cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lockfiles.model import Artifact, Digest, Ecosystem, Package
from mirror.config import UpstreamSpec
from mirror.upstream.locate import LocatedFiles

DIGEST = Digest("sha256", "a" * 64)
FILE = Artifact(
    filename="it-1-py3-none-any.whl", url="https://a.example/it-1-py3-none-any.whl", digests=(DIGEST,), size=3
)
PACKAGE = Package(ecosystem=Ecosystem.PYPI, name="it", version="1", digests=(DIGEST,))
OTHER = replace(PACKAGE, name="other")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "answers"


def test_an_answer_is_there_for_the_next_run(file: Path) -> None:
    known = LocatedFiles(file)
    assert known.get(PACKAGE) is None
    known.put(PACKAGE, [FILE])
    assert known.get(PACKAGE) == LocatedFiles(file).get(PACKAGE) == (FILE,)


def test_the_last_answer_counts(file: Path) -> None:
    moved = replace(FILE, url="https://b.example/it-1-py3-none-any.whl")
    for answer in (FILE, moved):
        LocatedFiles(file).put(PACKAGE, [answer])
    assert LocatedFiles(file).get(PACKAGE) == (moved,)


def test_what_is_asked_otherwise_is_another_question(file: Path) -> None:
    LocatedFiles(file).put(PACKAGE, [FILE])
    for other in (
        OTHER,
        replace(PACKAGE, version="2"),
        replace(PACKAGE, digests=(Digest("sha256", "b" * 64),)),
    ):
        assert LocatedFiles(file).get(other) is None
    pinned = LocatedFiles(file, [UpstreamSpec(index="https://own.example/simple", packages=("it",))])
    assert pinned.get(PACKAGE) is None


def test_a_forgotten_answer_is_gone_and_told_once(file: Path) -> None:
    known = LocatedFiles(file)
    known.put(PACKAGE, [FILE])
    assert [known.forget(PACKAGE), known.forget(PACKAGE), known.forget(OTHER)] == [True, False, False]
    assert LocatedFiles(file).get(PACKAGE) is None
    known.put(PACKAGE, [FILE])
    assert LocatedFiles(file).get(PACKAGE) == (FILE,)


def test_a_line_that_was_cut_off_is_no_answer_and_spoils_none(file: Path) -> None:
    known = LocatedFiles(file)
    known.put(PACKAGE, [FILE])
    known.put(OTHER, [FILE])
    whole = file.read_bytes()
    for end in range(whole.rindex(b"\n"), len(whole)):
        file.write_bytes(whole[:end])
        assert LocatedFiles(file).get(PACKAGE) == (FILE,)
        assert LocatedFiles(file).get(OTHER) is None
        LocatedFiles(file).put(OTHER, [FILE])
        assert LocatedFiles(file).get(OTHER) == (FILE,)


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"\xff\n", b"[]", b"\n" * 9])
def test_what_is_no_answer_is_asked_for_again(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    assert LocatedFiles(file).get(PACKAGE) is None


def test_nothing_secret_and_nothing_that_ends_is_written_down(file: Path) -> None:
    known = LocatedFiles(file)
    known.put(PACKAGE, [replace(FILE, url="https://me:secret@a.example/it-1-py3-none-any.whl")])
    known.put(OTHER, [replace(FILE, url="https://a.example/it-1-py3-none-any.whl?signed=secret")])
    assert b"secret" not in file.read_bytes()
    assert known.get(PACKAGE) == (FILE,)
    assert known.get(OTHER) is None
