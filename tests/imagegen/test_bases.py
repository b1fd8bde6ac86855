from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from imagegen import bases
from imagegen.engines.docker import facts_of
from imagegen.engines.model import Facts
from imagegen.errors import BaseError, UnfitBaseError
from imagegen.live import Silent
from imagegen.spec import DebianBase
from mirror.errors import DiskFullError

BASE = DebianBase(suite="bookworm", packages=("less",))
MMDEBSTRAP = """\
#!/bin/sh
echo 'I: downloading' >&2
{what}
"""


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH, for a program of the name mmdebstrap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "mmdebstrap"


def program(path: Path, what: str) -> None:
    path.write_text(MMDEBSTRAP.format(what=what))
    path.chmod(0o755)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: str) -> None:
        self.lines.append(text)


def test_the_command_asks_for_what_every_base_needs() -> None:
    command = bases.command(BASE.suite, bases.wanted(BASE))

    assert "--variant=minbase" in command
    assert "--include=ca-certificates,git,less,nano,python3,python3-venv,tini,tzdata" in command
    assert command[-2:] == ["bookworm", "-"]


def test_a_base_is_made_once_and_named_by_its_digest(
    tmp_path: Path, pretend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(pretend, "echo made >> calls; cat > /dev/null; printf 'tar of %s' $SOURCE_DATE_EPOCH")
    told = Told()
    monkeypatch.chdir(tmp_path)

    first = bases.make(BASE, tmp_path / "bases", told)
    second = bases.make(BASE, tmp_path / "bases", told)

    assert first == second
    assert first.path.read_text() == f"tar of {bases.EPOCH}"
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert (tmp_path / "calls").read_text() == "made\n"
    assert told.lines == ["making the base debian:bookworm with mmdebstrap (once, some 20 s)", "downloading"]
    assert sorted(file.name for file in (tmp_path / "bases").iterdir()) == [".lock", first.path.name]


def test_a_failure_says_what_apt_said_without_credentials(tmp_path: Path, pretend: Path) -> None:
    program(
        pretend,
        "echo 'E: Failed to fetch http://me:secret@archive.example/x  404' >&2\n"
        "echo 'E: apt-get update failed' >&2; printf half; exit 1",
    )

    with pytest.raises(BaseError) as caught:
        bases.make(BASE, tmp_path / "bases", Silent())

    assert caught.value.reason == "mmdebstrap failed: Failed to fetch http://archive.example/x  404"
    assert caught.value.where == "debian:bookworm"
    assert "check the suite" in caught.value.hint
    assert [file.name for file in (tmp_path / "bases").iterdir()] == [".lock"]


def test_what_ends_its_own_process_group_ends_nobody_else(tmp_path: Path, pretend: Path) -> None:
    """So mmdebstrap does where it cannot write: the disk is full."""
    program(pretend, "trap '' HUP; kill -HUP 0; echo 'E: cannot copy: No space left on device' >&2; exit 1")
    code = (
        "from pathlib import Path; from imagegen import bases; from imagegen.live import Silent\n"
        "from imagegen.spec import DebianBase\n"
        "bases.make(DebianBase(suite='bookworm', packages=('less',)), Path('bases'), Silent())"
    )
    root = Path(__file__).parent.parent.parent

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False, start_new_session=True,
    )  # fmt: skip

    assert (ended.returncode, "No space left" in ended.stderr) == (1, True), ended
    assert [file.name for file in (tmp_path / "bases").iterdir()] == [".lock"]


@pytest.mark.root
def test_a_full_disk_is_told_as_one_and_leaves_nothing(tmp_path: Path, pretend: Path) -> None:
    program(pretend, "cat > /dev/null; echo 'W: creating tarball failed' >&2; exec head -c 2000000 /dev/zero")
    folder = tmp_path / "bases"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        with pytest.raises(DiskFullError):
            bases.make(BASE, folder, Silent())
        assert [file.name for file in folder.iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_half_a_line_shows_no_half_of_a_password(tmp_path: Path, pretend: Path) -> None:
    program(
        pretend,
        "printf 'I: fetching http://me:sec' >&2; sleep 0.5\n"
        "printf 'ret@archive.example/x\\n' >&2; cat > /dev/null; printf tar",
    )
    told = Told()

    bases.make(BASE, tmp_path / "bases", told)

    assert told.lines[2:] == ["fetching http://archive.example/x"]


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BaseError, match="mmdebstrap is not installed") as caught:
        bases.make(BASE, tmp_path / "bases", Silent())

    assert caught.value.hint.startswith("apt-get install --no-install-recommends mmdebstrap")


def test_killed_in_the_middle_and_run_again(tmp_path: Path, pretend: Path) -> None:
    """The program is sent a signal, keeps the lock while it tidies up, and the next run starts clean."""
    program(
        pretend,
        "trap 'sleep 1; echo tidied > tidy; exit 1' TERM\n"
        "printf half; echo started > started; for i in 1 2 3 4 5 6 7 8 9 0; do sleep 0.5; done",
    )
    code = (
        "from pathlib import Path; from imagegen import bases; from imagegen.live import Silent\n"
        "from imagegen.spec import DebianBase\n"
        "bases.make(DebianBase(suite='bookworm', packages=('less',)), Path('bases'), Silent())"
    )
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)

    with (tmp_path / "bases" / ".lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    program(pretend, "cat > /dev/null; printf whole")
    made = bases.make(BASE, tmp_path / "bases", Silent())

    assert (tmp_path / "tidy").read_text() == "tidied\n"
    assert made.path.read_text() == "whole"
    assert sorted(file.name for file in (tmp_path / "bases").iterdir()) == [".lock", made.path.name]


class TestFacts:
    FACTS = Facts(
        python="3.11.2",
        arch="x86_64",
        libc="glibc",
        libc_version="2.36",
        git=True,
        venv=True,
        ca=True,
        node=False,
    )

    def test_a_base_that_prints_first(self) -> None:
        output = b"hello from sitecustomize\n{}\n" + json.dumps(asdict(self.FACTS)).encode() + b"\n"

        assert facts_of(output, "docker:chatty") == self.FACTS

    @pytest.mark.parametrize(
        "output", [b"", b"\n", b"bye\n", b"[]\n", b"{}\n", b'{"python": 1, "x": 2}', b"\xff"]
    )
    def test_a_base_that_prints_something_else(self, output: bytes) -> None:
        with pytest.raises(UnfitBaseError, match="does not print") as caught:
            facts_of(output, "docker:chatty")

        assert caught.value.where == "docker:chatty"
