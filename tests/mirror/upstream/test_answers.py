"""What indexes said is remembered by the digests it was asked for, and safe to be cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lockfiles.model import Artifact, Digest, Ecosystem, Package
from mirror.config import UpstreamSpec
from mirror.upstream.answers import LocatedFiles
from tests.index_server import IndexServer
from tests.mirror.test_devpi_kill import steps_until_killed
from tests.project import Project
from tests.wheels import make_wheel

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


def fill(file: Path, number: int) -> None:
    """Note answers for packages that nobody has any more, of 20 kB each."""
    long = replace(FILE, url=f"https://a.example/{'x' * 20_000}/it-1-py3-none-any.whl")
    for version in range(number):
        LocatedFiles(file).put(replace(PACKAGE, name="old", version=str(version)), [long])


def test_what_nobody_asks_for_any_more_is_dropped(file: Path) -> None:
    fill(file, 60)
    before = LocatedFiles(file)
    before.put(PACKAGE, [FILE])
    before.put(OTHER, [FILE])
    another = LocatedFiles(file)
    assert another.get(OTHER) == (FILE,)
    known = LocatedFiles(file)
    known.get(PACKAGE)
    known.put(replace(PACKAGE, version="2"), [FILE])
    known.put(replace(PACKAGE, version="3"), [FILE])
    known.forget(replace(PACKAGE, version="3"))
    with file.open("ab") as end:
        end.write(b"\n" + b"0" * 40)  # cut off
    known.compact()
    assert len(file.read_bytes().splitlines()) == 3  # the first is empty
    assert [path.name for path in file.parent.iterdir()] == ["answers"]
    after = LocatedFiles(file)
    assert after.get(PACKAGE) == after.get(replace(PACKAGE, version="2")) == (FILE,)
    assert after.get(OTHER) is None
    another.put(replace(PACKAGE, version="4"), [FILE])  # who read the file before goes on with the new one
    assert another.get(OTHER) == LocatedFiles(file).get(replace(PACKAGE, version="4")) == (FILE,)


@pytest.mark.parametrize(("number", "asked"), [(0, 0), (40, 0), (60, 40)])
def test_a_file_that_is_small_or_mostly_used_stays(file: Path, number: int, asked: int) -> None:
    fill(file, number)
    known = LocatedFiles(file)
    for version in range(asked):
        assert known.get(replace(PACKAGE, name="old", version=str(version)))
    content = file.read_bytes() if number else None
    known.compact()
    assert (file.read_bytes() if file.exists() else None) == content


def test_killed_while_it_is_written_anew(file: Path) -> None:
    fill(file, 60)
    LocatedFiles(file).put(PACKAGE, [FILE])

    def compact() -> None:
        known = LocatedFiles(file)
        known.get(PACKAGE)
        known.compact()

    whole, moment = file.read_bytes(), 0
    while steps_until_killed(compact, moment, ("open", "os.rename")):
        assert file.read_bytes() == whole
        moment += 1
    assert moment == 3, "to read, to write, and to rename"
    assert LocatedFiles(file).get(PACKAGE) == (FILE,)
    assert [path.name for path in file.parent.iterdir()] == ["answers"]
    assert file.stat().st_size < 1000


def test_a_refresh_drops_what_no_lock_names_any_more(project: Project, index: IndexServer) -> None:
    file = project.layout.located
    flask, click = (make_wheel(index.folder, name, "1.0") for name in ("flask", "click"))
    project.lock(flask)
    project.refreshed()
    fill(file, 60)
    large = file.stat()
    assert project.refreshed()["changed"] is False
    assert file.stat() == large, "it is not even read where nothing changes"
    project.lock(flask, click, changed={click.name: "a" * 64})
    assert project.mirror("refresh").returncode
    assert file.stat().st_size >= large.st_size, "the lock that failed may need it"
    project.lock(flask, click)
    index.requests.clear()
    assert project.refreshed()["changed"] is True
    assert file.stat().st_size < 2000
    assert "/simple/flask/" not in [path for path, _ in index.requests]
    names = {json.loads(line[32:])[0]["filename"] for line in file.read_bytes().splitlines()[1:]}
    assert names == {flask.name, click.name}
