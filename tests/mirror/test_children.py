"""Programs that the mirror runs and that do not come to an end: git, and pip-compile."""

from __future__ import annotations

import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lockfiles.target import Target
from mirror import buildlock, git
from mirror.config import UpstreamSpec
from mirror.errors import ResolutionError, UpstreamError
from tests.lockfiles.conformity.git_server import GitServer

LIMIT = 3


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says anything, as HOST:PORT."""
    held = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with suppress(OSError):
                while True:
                    held.append(listener.accept())

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def left_over(word: str) -> list[str]:
    """Name the processes whose command line has this word, once what was killed had time to end."""
    until = time.monotonic() + 5
    while (found := running(word)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def running(word: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if word in line and int(folder.name) != os.getpid():
                found.append(line)
    return found


def test_a_git_server_that_says_nothing(silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "_LONGEST_FETCH", LIMIT)
    begun = time.monotonic()
    with pytest.raises(UpstreamError, match=f"did not end in {LIMIT} s") as caught:
        git.fetch_commit(tmp_path, f"http://me:hunter2@{silent}/library", "main")
    assert time.monotonic() - begun < 4 * LIMIT
    assert "hunter2" not in str(caught.value)
    assert left_over(f"{silent}/library") == []


def test_a_lock_s_credentials_reach_git_and_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    guard = f"Basic {b64encode(b'me:hunter@2').decode()}"
    with GitServer(tmp_path, guard) as server:
        url = server.url.replace("//", "//me:hunter%402@")
        assert git.fetch_commit(tmp_path / "clones", url, "main").commit == server.commit
        with pytest.raises(UpstreamError, match="cannot fetch"):
            git.fetch_commit(tmp_path / "others", url.replace("hunter", "wrong"), "main")
    assert "remote-http" in trace.read_text()
    written = [path for path in (tmp_path / "clones").rglob("*") if path.is_file()]
    assert not [path for path in (trace, *written) if b"hunter" in path.read_bytes()]


def test_an_index_that_says_nothing_to_pip_compile(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buildlock, "_LONGEST_RUN", LIMIT)
    index = f"http://me:hunter2@{silent}/simple"
    locks = buildlock.BuildLocks(folder=tmp_path, upstreams=(UpstreamSpec(index=index, packages=()),))
    begun = time.monotonic()
    with pytest.raises(ResolutionError, match=f"did not end in {LIMIT} s") as caught:
        locks.resolve(["setuptools"], Target.parse("3.11/linux/amd64/glibc2.36"))
    assert time.monotonic() - begun < 4 * LIMIT
    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert left_over(str(tmp_path)) == []
