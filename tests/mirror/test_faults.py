"""A hostile upstream. After each of its faults the mirror is whole, serves as before, and goes on."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from mirror.errors import UpstreamError
from mirror.refresh import refresh
from mirror.upstream import fetch as fetching
from tests.index_server import Answer, IndexServer
from tests.mirror.stocking import is_whole
from tests.project import Project
from tests.wheels import make_wheel

FILE, PAGE = "file", "page"
# A process that holds all of what a bomb unpacks to would need more than this, in KiB.
LITTLE_MEMORY = ("sh", "-c", 'ulimit -v 1500000; exec "$@"', "sh")


@dataclass
class Upstream:
    """An upstream, and a mirror that serves something of it. Each test locks another version of flask."""

    index: IndexServer
    project: Project
    versions: Iterator[int] = field(default_factory=partial(count, 1))

    def new(self) -> Path:
        wheel = make_wheel(self.index.folder, "flask", f"{next(self.versions)}.0")
        self.project.lock(wheel)
        return wheel

    def place(self, kind: str, wheel: Path) -> str:
        return f"/files/{wheel.name}" if kind == FILE else "/simple/flask/"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    folder = tmp_path_factory.mktemp("faults")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        project = Project(folder / "project", probe.getsockname()[1])
    project.folder.mkdir()
    (folder / "wheels").mkdir()
    with IndexServer(folder / "wheels") as index:
        project.upstream(index.index)
        project.environment |= {"PIP_DEFAULT_TIMEOUT": "0.5", "PIP_RETRIES": "1"}
        project.configure(mirror="max_file_size = 50000\nkeep = 2")
        made = Upstream(index, project)
        made.new()
        project.refreshed()
        yield made


@pytest.fixture
def upstream(started: Upstream) -> Iterator[Upstream]:
    started.index.requests.clear()
    yield started
    started.index.faults.clear()
    started.index.sizes = True


def send_chunks(answer: Answer, chunk: bytes, headers: dict[str, str] | None = None) -> None:
    """Send one chunk again and again, for as long as anybody takes it."""
    answer.handler.send_response(200)
    for name, value in {"Transfer-Encoding": "chunked", **(headers or {})}.items():
        answer.handler.send_header(name, value)
    answer.handler.end_headers()
    while True:
        answer.handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))


def stalled(answer: Answer) -> None:
    body = answer.body or b""
    answer.send(200, body[: len(body) // 2], length=len(body))
    answer.handler.wfile.flush()
    time.sleep(2)


def silent(answer: Answer) -> None:
    time.sleep(2)
    answer.cut()


def cut(answer: Answer) -> None:
    body = answer.body or b""
    answer.send(200, body[: len(body) // 2], length=len(body))
    answer.cut()


def another_each_time(answer: Answer) -> None:
    answer.send(200, bytes([answer.count]) * len(answer.body or b""))


def half_gzip(answer: Answer) -> None:
    answer.send(200, gzip.compress(answer.body or b"")[:-9], {"Content-Encoding": "gzip"})


def another_after_a_cut(answer: Answer) -> None:
    body = answer.body or b""
    if answer.count == 1:
        cut(answer)
        return
    start = len(body) // 2
    answer.send(
        206, bytes(len(body) - start), {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
    )


def endless_head(answer: Answer) -> None:
    answer.handler.send_response(200)
    answer.handler.end_headers()
    while True:
        answer.handler.wfile.write(b"X-Filler: " + b"x" * 8000 + b"\r\n")


def bomb(times: int) -> Callable[[Answer], None]:
    """Answer with a page that unpacks to 8 GB, packed so many times."""
    page = gzip.compress(bytes(1 << 30), 9, mtime=0)  # 1 MB
    page = page * 8 if times == 1 else gzip.compress(gzip.compress(bytes(1 << 20)) * 8192, 9, mtime=0)
    headers = {"Content-Encoding": ", ".join(["gzip"] * times)}
    return lambda answer: answer.send(200, page, headers)


FAULTS: dict[str, tuple[str, Callable[[Answer], None], int, str]] = {
    "a file that stalls": (FILE, stalled, 22, "cannot be reached"),
    "a page that never comes": (PAGE, silent, 22, "cannot be reached"),
    "a file that is cut": (FILE, cut, 23, "stopped"),
    "a page that is cut": (PAGE, cut, 23, "stopped"),
    "a file with 500": (FILE, lambda a: a.send(500), 22, "500"),
    "a page with 500": (PAGE, lambda a: a.send(500), 22, "500"),
    "429 for ever": (FILE, lambda a: a.send(429, headers={"Retry-After": "1"}), 22, "429"),
    "wrong bytes": (FILE, lambda a: a.send(200, bytes(len(a.body or b""))), 20, "digest"),
    "another file each time": (FILE, another_each_time, 20, "digest"),
    "another rest after a cut": (FILE, another_after_a_cut, 20, "digest"),
    "an endless file": (FILE, lambda a: send_chunks(a, bytes(1 << 16)), 24, "more than"),
    "an endless page": (PAGE, lambda a: send_chunks(a, b" " * (1 << 16)), 22, "no end"),
    "an endless head": (PAGE, endless_head, 22, "flask"),
    "a gzip bomb": (PAGE, bomb(1), 22, "no end"),
    "a gzip bomb in a gzip bomb": (PAGE, bomb(2), 22, "not asked for"),
    "gzip that is cut": (PAGE, half_gzip, 23, "stopped"),
    "gzip that is none": (PAGE, lambda a: a.send(200, b"xx", {"Content-Encoding": "gzip"}), 22, "not gzip"),
    "a redirect loop": (FILE, lambda a: a.send(302, headers={"Location": a.path}), 22, "redirect"),
    "a redirect to a file": (FILE, lambda a: a.send(302, headers={"Location": "file:///etc/passwd"}), 22, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_all_goes_on(upstream: Upstream, fault: str) -> None:
    kind, answer, code, word = FAULTS[fault]
    index, project, wheel = upstream.index, upstream.project, upstream.new()
    served = project.layout.snapshots.current_name()
    index.sizes = fault != "an endless file"  # else the page's own size ends it
    index.faults[upstream.place(kind, wheel)] = answer
    ended = project.mirror("refresh", prefix=LITTLE_MEMORY)
    assert ended.returncode == code, ended.stderr
    assert word in ended.stderr
    assert ended.stderr.count("error:") == 1
    assert "Traceback" not in ended.stderr
    goes_on(upstream, served)


def goes_on(upstream: Upstream, served: str | None) -> None:
    """See that the mirror is whole and serves what it did, and that the next run ends well."""
    layout = upstream.project.layout
    assert not list(layout.store.incoming.iterdir())
    assert layout.snapshots.current_name() == served
    assert is_whole(layout)

    upstream.index.faults.clear()
    report = upstream.project.refreshed()
    assert (report["artifacts"], report["changed"]) == (1, True)
    assert is_whole(layout)


def test_after_a_file_that_hardly_comes(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where half a minute can be made shorter."""
    project, wheel = upstream.project, upstream.new()
    served = project.layout.snapshots.current_name()
    monkeypatch.setattr(fetching, "STALL_SECONDS", 0.3)
    for name, value in {**project.environment, "PIP_DEFAULT_TIMEOUT": "5"}.items():
        monkeypatch.setenv(name, value)

    def drip(answer: Answer) -> None:
        body = answer.body or b""
        answer.send(200, body[:1], length=len(body))
        for byte in body[1:]:
            time.sleep(0.05)
            answer.handler.wfile.write(bytes([byte]))

    upstream.index.faults[upstream.place(FILE, wheel)] = drip
    with pytest.raises(UpstreamError, match="bytes came in"):
        refresh(project.load(), begin=lambda _: lambda _: None, publish=lambda *_: None)
    goes_on(upstream, served)


def test_429_is_waited_for(upstream: Upstream) -> None:
    wheel, times = upstream.new(), []

    def busy_once(answer: Answer) -> None:
        times.append(time.monotonic())
        if answer.count == 1:
            answer.send(429, headers={"Retry-After": "1"})
        else:
            answer.send(200, answer.body or b"")

    upstream.index.faults[upstream.place(FILE, wheel)] = busy_once
    assert upstream.project.refreshed()["fetched"] == 1
    assert times[1] - times[0] >= 0.9


@pytest.mark.parametrize("sizes", [True, False])
def test_where_there_is_nothing_to_resume_it_begins_again(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch, sizes: bool
) -> None:
    wheel = upstream.new()
    upstream.index.sizes = sizes
    monkeypatch.setitem(upstream.project.environment, "PIP_RETRIES", "2")

    def no_ranges(answer: Answer) -> None:
        if answer.count == 1:
            cut(answer)
        elif answer.handler.headers.get("Range"):
            answer.send(416)
        else:
            answer.send(200, answer.body or b"")

    place = upstream.place(FILE, wheel)
    upstream.index.faults[place] = no_ranges
    assert upstream.project.refreshed()["fetched"] == 1
    half = len(wheel.read_bytes()) // 2
    asked = [headers.get("Range") for path, headers in upstream.index.requests if path == place]
    assert asked == [None, f"bytes={half}-", None]


@pytest.mark.root
def test_a_public_upstream_that_leads_to_this_machine(upstream: Upstream) -> None:
    """In a network namespace of its own, where this machine has a public address."""
    namespace = ["unshare", "--map-root-user", "--net", "sh", "-ec",
                 'ip link set lo up; ip address add 93.184.216.34/32 dev lo; exec "$@"', "sh"]  # fmt: skip
    project = upstream.project
    upstream.new()
    served = project.layout.snapshots.current_name()
    folders = [str(project.folder), str(upstream.index.folder)]
    script = [sys.executable, "-m", "tests.mirror.public_upstream", *folders]
    ended = subprocess.run([*namespace, *script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(ended.stdout)
    assert [run["code"] for run in runs] == [22, 22, 22]
    assert all("private address" in run["stderr"] for run in runs)
    assert [run["asked"] for run in runs] == [[], [], []]
    assert project.layout.snapshots.current_name() == served
    assert is_whole(project.layout)
    assert project.refreshed()["changed"]
