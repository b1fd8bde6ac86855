"""Sockets that lead past a sandbox's network: how the filter refuses them, and the gate writes them down."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.errors import GateError, LogError
from mirror.gate.log import Log
from mirror.gate.reports import blocked, summary, touched
from mirror.gate.seccomp import Filter, attempt
from templates.gate import filter as inside
from tests.mirror.gate.harness import Running, running

PROGRAM = str(Path(inside.__file__))
ALLOW, REFUSE, NOTIFY = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x7FC00000
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
RAW, VSOCK = (2, 3, 1), (40, 1, 0)
# Runs below the filter: prints the error of each socket that is asked for, 0 where it is had.
OPEN = """
import json, socket, sys
found = []
for one in json.loads(sys.argv[1]):
    try:
        socket.socket(*one).close()
        found.append(0)
    except OSError as error:
        found.append(error.errno)
print(json.dumps(found))
"""


@asynccontextmanager
async def filtering(folder: Path) -> AsyncIterator[Running]:
    """A gate that waits for a filter."""
    async with running(folder, "") as gate:
        gate.gate.filter.listen(folder / "f")
        yield gate


async def below(place: Path, *command: str) -> tuple[int, str, str]:
    """Run a command below the filter; gives its exit code and what it printed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", PROGRAM, str(place), *command,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await child.communicate()
    return child.returncode or 0, out.decode(), err.decode()


async def opened(place: Path, *sockets: tuple[int, int, int]) -> list[int]:
    code, out, err = await below(place, sys.executable, "-c", OPEN, json.dumps(sockets))
    assert code == 0, err
    return list(json.loads(out))


def asked(gate: Running) -> dict[tuple[str, str], int]:
    """Give what the log says was asked for, and how often."""
    return {(one.kind, one.target): one.times for one in blocked(gate.records())}


REFUSED = {
    RAW: ("raw socket", "AF_INET SOCK_RAW 1"),
    (2, 3 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 6): ("raw socket", "AF_INET SOCK_RAW 6"),
    (2, 10, 768): ("raw socket", "AF_INET SOCK_PACKET 768"),
    (10, 3, 58): ("raw socket", "AF_INET6 SOCK_RAW 58"),
    (17, 3, 768): ("raw socket", "AF_PACKET SOCK_RAW 768"),
    (17, 2, 0): ("raw socket", "AF_PACKET SOCK_DGRAM 0"),
    (29, 3, 1): ("socket", "AF_CAN SOCK_RAW 1"),
    (31, 3, 1): ("socket", "AF_BLUETOOTH SOCK_RAW 1"),
    (38, 5, 0): ("socket", "AF_ALG SOCK_SEQPACKET 0"),
    VSOCK: ("socket", "AF_VSOCK SOCK_STREAM 0"),
    (44, 3, 0): ("socket", "AF_XDP SOCK_RAW 0"),
    (99, 1, 0): ("socket", "AF_99 SOCK_STREAM 0"),
}
# What ordinary programs open: glibc's own look at interfaces is a raw socket of netlink.
ORDINARY = [(16, 3, 0), (16, 2, 0), (1, 1, 0), (1, 3, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (10, 2, 0)]


@pytest.mark.anyio
async def test_what_leads_past_the_network_is_refused_and_stands_in_the_log(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        assert await opened(tmp_path / "f", *REFUSED) == [errno.EPERM] * len(REFUSED)
        assert asked(gate) == dict.fromkeys(REFUSED.values(), 1)
        assert gate.gate.filter.on
        assert [record["state"] for record in gate.records("filter")] == ["on"]
        assert {record["rule"] for record in gate.records("blocked")} == {"through the gate only"}


@pytest.mark.anyio
async def test_what_ordinary_programs_open_is_theirs(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        assert await opened(tmp_path / "f", *ORDINARY) == [0] * len(ORDINARY)
        assert asked(gate) == {}


OTHER_WAYS = """
import ctypes, errno, mmap, socket
libc = ctypes.CDLL(None, use_errno=True)
code = bytes.fromhex("89f8" "53" "89f3" "4189c9" "89d1" "4489ca" "cd80" "5b" "c3")  # calls by int 0x80
page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
old = ctypes.CFUNCTYPE(*[ctypes.c_int] * 5)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
assert old(20, 0, 0, 0) > 0  # getpid
assert old(359, 1, 1, 0) > 0  # a unix socket
assert [old(359, 2, 3, 1), old(359, 40, 1, 0), old(360, 2, 3, 0)] == [-errno.EPERM] * 3
assert [old(102, 1, 0, 0), old(102, 8, 0, 0)] == [-errno.EPERM] * 2  # socketcall
assert old(102, 3, 0, 0) == -errno.EFAULT  # connect, by socketcall
assert old(425, 8, 0, 0) == -errno.EPERM  # io_uring_setup
assert (libc.syscall(0x40000000 + 41, 2, 3, 1), ctypes.get_errno()) == (-1, errno.EPERM)  # x32
"""


@pytest.mark.anyio
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these ways are those of x86-64")
async def test_other_ways_to_call_the_kernel_are_seen_too(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        code, _, err = await below(tmp_path / "f", sys.executable, "-c", OTHER_WAYS)
        assert (code, err) == (0, "")
        assert asked(gate) == {
            ("raw socket", "AF_INET SOCK_RAW 1"): 2,
            ("raw socket", "AF_INET SOCK_RAW 0"): 1,
            ("socket", "AF_VSOCK SOCK_STREAM 0"): 1,
            ("socket", "socketcall"): 2,
        }


IO_URING = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 8, ctypes.create_string_buffer(120)) == -1
assert ctypes.get_errno() == errno.EPERM
"""


@pytest.mark.anyio
async def test_io_uring_which_no_filter_sees_is_not_there(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        assert await below(tmp_path / "f", sys.executable, "-c", IO_URING) == (0, "", "")
        assert asked(gate) == {}


FAMILY = """
import os, socket, subprocess, sys, threading

def ask(kind):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, kind)
    except PermissionError:
        return
    os._exit(3)

if len(sys.argv) > 1:
    ask(4)
    raise SystemExit
ask(1)
thread = threading.Thread(target=ask, args=(2,))
thread.start()
thread.join()
if not (child := os.fork()):
    ask(3)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
subprocess.run([*sys.orig_argv, "again"], check=True)
"""


@pytest.mark.anyio
async def test_threads_children_and_what_they_become_are_below_it_too(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        assert await below(tmp_path / "f", sys.executable, "-c", FAMILY) == (0, "", "")
        assert asked(gate) == {("raw socket", f"AF_INET SOCK_RAW {number}"): 1 for number in (1, 2, 3, 4)}


HAMMER = """
import socket
for number in range(10_000):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, number % 3)
    except PermissionError:
        continue
    raise SystemExit(3)
"""


@pytest.mark.anyio
async def test_a_flood_is_counted_and_takes_no_memory(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        tracemalloc.start()
        try:
            assert await below(tmp_path / "f", sys.executable, "-c", HAMMER) == (0, "", "")
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
    assert sum(asked(gate).values()) == 10_000
    assert len(gate.records()) < 40


KILLED = """
import os, signal, socket, threading, time
for _ in range(20):
    if not (child := os.fork()):
        while True:
            try:
                socket.socket(socket.AF_INET, socket.SOCK_RAW)
            except PermissionError:
                pass
    time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 77)
except PermissionError:
    print("refused")
"""


@pytest.mark.anyio
async def test_who_is_killed_while_it_waits_holds_nothing_up(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        assert await below(tmp_path / "f", sys.executable, "-c", KILLED) == (0, "refused\n", "")
        assert asked(gate)["raw socket", "AF_INET SOCK_RAW 77"] == 1
        assert gate.gate.filter.on


WAITING = """
import socket, sys
sys.stdin.read(1)
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW)
except OSError as error:
    raise SystemExit(error.errno)
"""


@pytest.mark.anyio
@pytest.mark.parametrize("failing", [False, True])
async def test_without_the_gate_it_is_refused_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    async with filtering(tmp_path) as gate:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", PROGRAM, str(tmp_path / "f"), sys.executable, "-c", WAITING,
            stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        while not gate.gate.filter.on:
            await asyncio.sleep(0.01)
        if failing:
            monkeypatch.setattr(Log, "append", broken)
        else:
            gate.gate.filter.close()
        assert child.stdin
        child.stdin.write(b".")
        async with asyncio.timeout(10):
            assert await child.wait() == errno.ENOSYS
        assert bool(gate.gate.core.failure) is failing


def broken(self: Log, record: object) -> None:
    raise LogError("the disk is full")


@pytest.mark.anyio
async def test_where_the_log_fails_no_command_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with filtering(tmp_path) as gate:
        monkeypatch.setattr(Log, "append", broken)
        code, out, err = await below(tmp_path / "f", "echo", "begun")
        assert (code, out) == (125, "")
        assert err == "the command is not started: the gate does not take the filter\n"
        assert gate.gate.core.failure


@pytest.mark.anyio
async def test_where_there_is_a_filter_already_it_goes_on_and_says_so(tmp_path: Path) -> None:
    """A kernel takes one listener: what another one does not let through the second refuses by itself."""
    async with filtering(tmp_path) as gate:
        other = Filter(gate.gate.core, "other")
        other.listen(tmp_path / "g")
        nested = (sys.executable, "-I", "-S", PROGRAM, str(tmp_path / "g"), sys.executable, "-c", OPEN)
        code, out, err = await below(tmp_path / "f", *nested, json.dumps([RAW, VSOCK, (2, 1, 0)]))
        assert (code, json.loads(out)) == (0, [errno.EPERM, errno.EPERM, 0]), err
        assert not other.on
        assert other.problem == "the kernel does not take a filter: Device or resource busy"
        states = [(record["task"], record["state"]) for record in gate.records("filter")]
        assert states == [("task", "on"), ("other", "none")]
        assert asked(gate) == {}


@pytest.mark.parametrize(("machine", "size"), [("riscv64", (1 << 63) - 1), ("x86_64", (1 << 31) - 1)])
def test_a_machine_that_is_not_known_has_no_filter(
    monkeypatch: pytest.MonkeyPatch, machine: str, size: int
) -> None:
    monkeypatch.setattr("templates.gate.filter.os.uname", lambda: os.uname_result(("", "", "", "", machine)))
    monkeypatch.setattr("templates.gate.filter.sys.maxsize", size)
    reason = f"there is no filter for programs of {size.bit_length() + 1} bits on {machine}"
    assert inside.install() == (-1, reason)


def test_a_python_without_ctypes_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert inside.install() == (-1, "the image's Python has no ctypes")


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["nothing", "a pipe", "a folder", "a socket", "a text"])
async def test_what_comes_first_is_taken_for_what_it_is(tmp_path: Path, what: str) -> None:
    ends = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    async with filtering(tmp_path) as gate:
        before = len([*Path("/proc/self/fd").iterdir()])
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(tmp_path / "f"))
        given = {"a pipe": ends[0], "a folder": folder, "a socket": peer.fileno()}.get(what)
        if given is not None:
            socket.send_fds(peer, [b"."], [given] * 3)
        elif what == "a text":
            peer.send(b"no \x1b[31mfilter\n\xff" + b"x" * 500)
        else:
            peer.shutdown(socket.SHUT_WR)
        told = await asyncio.to_thread(peer.recv, 1)
        peer.close()
        (record,) = gate.records("filter")
        assert record["state"] == "none"
        if what == "a text":
            assert told == b"."
            assert record["reason"].startswith("no ?[31mfilter??x")
            assert len(record["reason"]) == 200
        else:
            assert told == b""
            assert record["reason"] == "what the sandbox's first program gave is no filter"
        assert gate.gate.filter.problem == record["reason"]
        assert len([*Path("/proc/self/fd").iterdir()]) < before  # neither what was given nor the listener
    for end in (*ends, folder):
        os.close(end)


@pytest.mark.anyio
async def test_the_first_alone_is_heard(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(tmp_path / "f"))
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionRefusedError):
                second.connect(str(tmp_path / "f"))
            assert gate.records("filter") == []
    (record,) = gate.records("filter")
    assert (record["state"], record["reason"]) == ("none", "the sandbox's first program did not tell of it")


@pytest.mark.anyio
async def test_a_place_where_nothing_can_listen(tmp_path: Path) -> None:
    async with running(tmp_path, "") as gate:
        with pytest.raises(GateError, match="cannot listen"):
            gate.gate.filter.listen(tmp_path / "missing" / "f")
    assert gate.records("filter") == []


@pytest.mark.anyio
async def test_a_gate_that_is_not_there_starts_no_command(tmp_path: Path) -> None:
    code, out, err = await below(tmp_path / "f", "echo", "begun")
    assert (code, out) == (125, "")
    assert err == "the command is not started: [Errno 2] No such file or directory\n"


def decided(machine: str, abi: int, number: int, *arguments: int) -> int:
    """Run the filter's program on a call, as bpf(4) says; the kernel takes half of each argument here."""
    data = struct.pack("=IIQ6Q", number, abi, 0, *arguments, *[0xDEAD << 32] * (6 - len(arguments)))
    lines = [*struct.iter_unpack("=HBBI", inside.program(inside._MACHINES[machine][1], NOTIFY))]
    at = word = 0
    while True:
        code, then, otherwise, value = lines[at]
        at += 1
        match code:
            case 0x20:
                (word,) = struct.unpack_from("=I", data, value)
            case 0x54:
                word &= value
            case 0x15:
                at += then if word == value else otherwise
            case _:
                assert code == 0x06
                return int(value)


CALLS = [("x86_64", X86_64, 41, 53), ("x86_64", I386, 359, 360), ("aarch64", AARCH64, 198, 199)]
CALLS += [("x86_64", X86_64, 0x40000000 + 41, 0x40000000 + 53), ("aarch64", ARM, 281, 288)]


@pytest.mark.parametrize(("machine", "abi", "number", "pair"), CALLS)
def test_the_program_for_each_machine(machine: str, abi: int, number: int, pair: int) -> None:
    high = 0xBAD << 32
    for call in (number, pair):
        for family, kind, protocol in REFUSED:
            assert decided(machine, abi, call, high | family, high | kind, protocol) == NOTIFY
        for family, kind, protocol in ORDINARY:
            assert decided(machine, abi, call, high | family, high | kind, protocol) == ALLOW
    assert decided(machine, abi, 425) == REFUSE
    assert decided(machine, abi, 1, *RAW) == ALLOW
    assert decided(machine, 0x1234, number, *RAW) == REFUSE


@pytest.mark.parametrize(("call", "result"), [(1, NOTIFY), (8, NOTIFY), (2, ALLOW), (3, ALLOW), (9, ALLOW)])
def test_socketcall(call: int, result: int) -> None:
    assert decided("x86_64", I386, 102, call) == result
    assert decided("x86_64", X86_64, 102, call) == ALLOW  # getuid


@given(st.sampled_from(CALLS), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_nothing_but_known_families_passes(call: tuple[str, int, int, int], family: int, kind: int) -> None:
    machine, abi, number, _ = call
    passes = family in (1, 16) or (family in (2, 10) and kind & 15 not in (3, 10))
    assert decided(machine, abi, number, family, kind, 0) == (ALLOW if passes else NOTIFY)


@given(st.binary(min_size=80, max_size=80))
def test_any_notice_can_be_told(notice: bytes) -> None:
    fields: dict[str, Any] = attempt(notice)
    assert fields["kind"] in ("raw socket", "socket")
    assert all(value.isprintable() and len(value) < 120 for value in fields.values())


@pytest.mark.anyio
async def test_the_last_line_of_a_run_names_them(tmp_path: Path) -> None:
    async with filtering(tmp_path) as gate:
        await opened(tmp_path / "f", RAW, RAW, VSOCK)
    assert summary(touched("task", gate.records())).endswith(
        "blocked 3 attempts: AF_INET SOCK_RAW 1 (raw socket), AF_VSOCK SOCK_STREAM 0 (socket)"
    )
