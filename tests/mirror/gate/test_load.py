"""A gate under load: a thousand tunnels at a time and slow clients, memory flat, and no record lost."""

from __future__ import annotations

import asyncio
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.gate.audit import verify
from mirror.gate.keys import GateHome
from mirror.gate.log import Log
from mirror.gate.note import Verifier
from mirror.gate.reports import blocked
from tests.mirror.gate.harness import echo, hello, upstream

pytestmark = pytest.mark.anyio
TUNNELS = 1000
SLOW = 100
FLOOD = 5000
AT_A_TIME = 50
POLICY = '[[allow]]\nhost = "api.example"\nports = [{port}]\naddress = "127.0.0.1"\n'
HELLO = hello("api.example")


@pytest.fixture(autouse=True)
def _files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192) if hard > 0 else 8192, hard))


class Process:
    """A gate as a process of its own."""

    def __init__(self, folder: Path, socket: Path, child: asyncio.subprocess.Process) -> None:
        self.home = GateHome(folder / ".lockstock" / "gate")
        self.socket = socket
        self.child = child

    @property
    def memory(self) -> int:
        """The resident memory, in kB."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1])

    @property
    def verifier(self) -> Verifier:
        known = self.home.verifier()
        return Verifier(f"{known.name}/load", known.public)

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        verify(self.home.log("load"), self.verifier, each=found.append)
        return found


@asynccontextmanager
async def gate(folder: Path, port: int, short: Path) -> AsyncIterator[Process]:
    (folder / "requirements.txt").write_text("")
    (folder / "lockstock.toml").write_text('[locks.app]\npath = "requirements.txt"\n')
    (folder / "policy.toml").write_text(POLICY.format(port=port))
    socket = short / "gate.sock"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "gate", "serve", "--policy", "policy.toml", "--task", "load",
        "--socket", str(socket), cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert child.stderr
    assert b"open at" in await child.stderr.readline()
    try:
        yield Process(folder, socket, child)
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


class Crowd:
    """What tunnels share: how many are made at a time, which are held, and when they may go on."""

    def __init__(self, at_a_time: int) -> None:
        self.turn = asyncio.Semaphore(at_a_time)
        self.go = asyncio.Event()
        self.held = 0


async def one_tunnel(socket: Path, port: int, crowd: Crowd) -> None:
    """Open a tunnel, send through it, hold it until all are open, and see that all came back."""
    async with crowd.turn:
        reader, writer = await asyncio.open_unix_connection(socket)
        host = f"api.example:{port}"
        writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(HELLO)
        assert await reader.readexactly(len(HELLO)) == HELLO
    crowd.held += 1
    await crowd.go.wait()
    async with crowd.turn:
        writer.write(b"x" * 20_000)
        await reader.readexactly(20_000)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def wave(process: Process, port: int) -> int:
    """Hold a thousand tunnels at a time; gives the gate's memory while they are open."""
    crowd = Crowd(100)
    tunnels = [asyncio.create_task(one_tunnel(process.socket, port, crowd)) for _ in range(TUNNELS)]
    while crowd.held < TUNNELS:
        await asyncio.sleep(0.02)
        for tunnel in tunnels:
            assert not tunnel.done(), tunnel.exception()
    peak = process.memory
    crowd.go.set()
    await asyncio.gather(*tunnels)
    return peak


async def slow(process: Process) -> None:
    """Send a head one byte at a time and never end it."""
    _, writer = await asyncio.open_unix_connection(process.socket)
    try:
        while True:
            writer.write(b"G")
            await writer.drain()
            await asyncio.sleep(0.5)
    except OSError:
        return
    finally:
        writer.close()


async def test_a_thousand_tunnels_beside_slow_clients(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with upstream(echo) as up, gate(tmp_path, up.port, tmp_path_factory.mktemp("s")) as process:
        hangers = [asyncio.create_task(slow(process)) for _ in range(SLOW)]
        first = await wave(process, up.port)
        peaks = [await wave(process, up.port) for _ in range(2)]
        for hanger in hangers:
            hanger.cancel()
        await asyncio.gather(*hangers, return_exceptions=True)
        process.child.terminate()
        await process.child.wait()
        assert max(peaks) < first * 1.15 + 4096
        assert first < 200_000
        counts = Counter(record["event"] for record in process.records())
        assert counts["tunnel"] == counts["decision"] == 3 * TUNNELS
        assert up.connections == 3 * TUNNELS
        sums = {record["sent"] for record in process.records() if record["event"] == "tunnel"}
        assert sums == {len(HELLO) + 20_000}


async def test_kill_9_under_load(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with upstream(echo) as up, gate(tmp_path, up.port, tmp_path_factory.mktemp("s")) as process:
        crowd = Crowd(AT_A_TIME)
        crowd.go.set()
        tunnels = [asyncio.create_task(one_tunnel(process.socket, up.port, crowd)) for _ in range(TUNNELS)]
        while sum(tunnel.done() for tunnel in tunnels) < 400:
            await asyncio.sleep(0.01)
        process.child.send_signal(signal.SIGKILL)
        await process.child.wait()
        whole = sum(1 for tunnel in tunnels if tunnel.done() and not tunnel.exception())
        ended = await asyncio.gather(*tunnels, return_exceptions=True)
        assert any(isinstance(one, BaseException) for one in ended)
        log = process.home.log("load")
        verified = verify(log, process.verifier)
        counts = Counter(record["event"] for record in process.records())
        # Each connection was written down before it was made, each whole tunnel before its end was told.
        assert counts["decision"] >= up.connections
        assert counts["connected"] >= up.connections - AT_A_TIME  # which may have been under way
        assert counts["decision"] >= whole
        assert verified.unsealed <= 256
        log.open("ab").write(b'{"half":')
        command = [sys.executable, "-m", "mirror", "audit", "verify", str(log)]
        told = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert f"verified {verified.records} records" in told.stderr
        assert "the last record was not written whole: 8 bytes of it, not counted" in told.stderr
        if verified.unsealed:
            assert "after the last checkpoint: not sealed, and so not proved" in told.stderr
        signer = process.home.signer()
        Log(log, signer.named(f"{signer.name}/load")).close()
        assert verify(log, process.verifier).unsealed == 0


async def test_a_flood_of_denials_fills_neither_memory_nor_log(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with gate(tmp_path, 1, tmp_path_factory.mktemp("s")) as process:
        before = process.memory
        turn = asyncio.Semaphore(50)

        async def denied(number: int) -> None:
            async with turn:
                reader, writer = await asyncio.open_unix_connection(process.socket)
                host = f"h{number}.example:443"
                writer.write(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert (await reader.read()).startswith(b"HTTP/1.1 403")
                writer.close()

        await asyncio.gather(*(denied(number) for number in range(FLOOD)))
        assert process.memory < before + 16_384
        process.child.terminate()
        await process.child.wait()
        records = process.records()
        assert len(records) < 1500  # more than one window, where the machine is slow
        assert sum(one.times for one in blocked(records)) == FLOOD
