"""The gate against squid and tinyproxy, on loopback: CPU per CONNECT and per GiB, and throughput.

All three carry the same bytes to the same server. The gate does more with them: it asks a token,
reads the ClientHello, and signs a log; squid and tinyproxy write their own logs. The proxy's own CPU
is what counts: client and server share the machine with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.paired import rounds
from mirror.console import print_table
from mirror.gate.keys import GateHome
from mirror.gate.tokens import mint
from tests.mirror.gate.harness import hello

CONNECTS = 1000
AT_A_TIME = 16
GIB = 1 << 30
CHUNK = 1 << 20
HELLO = hello("localhost")
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Proxy:
    """A proxy that runs; `header` is what a client says of itself."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    header: str = ""
    connect_cpu: list[float] = field(default_factory=list)
    connect_wall: list[float] = field(default_factory=list)
    gib_cpu: list[float] = field(default_factory=list)
    gib_wall: list[float] = field(default_factory=list)

    def cpu(self) -> float:
        """Give the CPU seconds of the process and of all below it."""
        return sum(_cpu(pid) for pid in _family(self.process.pid))


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, _server() as target:
        folder = Path(temporary)
        folder.chmod(0o755)
        proxies = [start(folder, target) for start in (_gate, _squid, _tinyproxy)]
        try:
            for proxy in proxies:
                _connects(proxy, target, 50)
            for _ in range(rounds()):
                for proxy in proxies:
                    _measure(
                        proxy, proxy.connect_cpu, proxy.connect_wall, lambda p: _connects(p, target, CONNECTS)
                    )
                    _measure(proxy, proxy.gib_cpu, proxy.gib_wall, lambda p: _download(p, target))
        finally:
            for proxy in proxies:
                proxy.process.terminate()
                proxy.process.wait()
        _print(proxies)


def _print(proxies: list[Proxy]) -> None:
    first = proxies[0]
    rows = []
    for proxy in proxies:
        connects = [theirs / ours for ours, theirs in zip(first.connect_cpu, proxy.connect_cpu, strict=True)]
        gibs = [theirs / ours for ours, theirs in zip(first.gib_cpu, proxy.gib_cpu, strict=True)]
        rows.append(
            (
                proxy.name,
                f"{statistics.median(proxy.connect_cpu) / CONNECTS * 1e6:.0f} µs",
                f"{statistics.median(connects):.2f}",
                f"{CONNECTS / statistics.median(proxy.connect_wall):.0f}/s",
                f"{statistics.median(proxy.gib_cpu):.2f} s",
                f"{statistics.median(gibs):.2f}",
                f"{1024 / statistics.median(proxy.gib_wall):.0f} MiB/s",
            )
        )
    columns = ("", "CPU/CONNECT", "/ gate", "CONNECTs", "CPU/GiB", "/ gate", "throughput")
    print_table(f"gate (median of {len(first.gib_cpu)} rounds)", columns, rows)


def _measure(proxy: Proxy, cpu: list[float], wall: list[float], action: Callable[[Proxy], None]) -> None:
    before, begun = proxy.cpu(), time.perf_counter()
    action(proxy)
    wall.append(time.perf_counter() - begun)
    cpu.append(max(proxy.cpu() - before, 1 / TICK))


def _connects(proxy: Proxy, target: int, count: int) -> None:
    def one(_: int) -> None:
        with _open(proxy, target) as link:
            link.sendall(b"0" * 20)
            assert link.recv(1) == b"!"

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(one, range(count)))


def _download(proxy: Proxy, target: int) -> None:
    buffer, left = bytearray(CHUNK), GIB
    with _open(proxy, target) as link:
        link.sendall(str(GIB).zfill(20).encode())
        assert link.recv(1) == b"!"
        while left:
            left -= link.recv_into(buffer)


def _open(proxy: Proxy, target: int) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", proxy.port))
    host = f"localhost:{target}"
    link.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{proxy.header}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.recv(4096)
    assert b" 200 " in head.split(b"\r\n")[0], head
    link.sendall(HELLO)
    return link


@contextmanager
def _server() -> Iterator[int]:
    """Run a server that reads a ClientHello and a count, and sends a mark and as many bytes."""

    def serve(client: socket.socket) -> None:
        with client, client.makefile("rb") as file, Path("/dev/zero").open("rb") as zeros:
            file.read(len(HELLO))
            left = int(file.read(20) or b"0")
            client.sendall(b"!")
            data = zeros.read(CHUNK)
            while left:
                client.sendall(data[:left])
                left -= min(left, CHUNK)

    def accept(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield int(server.getsockname()[1])


def _gate(folder: Path, target: int) -> Proxy:
    port = _free_port()
    (folder / "requirements.txt").write_text("")
    (folder / "lockstock.toml").write_text('[locks.app]\npath = "requirements.txt"\n')
    (folder / "policy.toml").write_text(
        f'[[allow]]\nhost = "localhost"\nports = [{target}]\naddress = "127.0.0.1"\n'
    )
    command = [
        sys.executable,
        "-m",
        "mirror",
        "gate",
        "serve",
        "--policy",
        "policy.toml",
        "--listen",
        f"127.0.0.1:{port}",
    ]
    key = GateHome(folder / ".lockstock" / "gate").newest_key(time.time())
    token = mint(key.id, key.secret, task="bench", expires=int(time.time()) + 86400)
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _ready(Proxy("gate", port, process, f"Proxy-Authorization: Bearer {token}\r\n"))


def _squid(folder: Path, target: int) -> Proxy:
    port, place = _free_port(), folder / "squid"
    place.mkdir()
    shutil.chown(place, "proxy", "proxy")
    (folder / "squid.conf").write_text(
        f"http_port 127.0.0.1:{port}\nhttp_access allow localhost\npid_filename {place}/pid\n"
        f"access_log stdio:{place}/access.log\ncache_log {place}/cache.log\ncache deny all\n"
        "pinger_enable off\nnetdb_filename none\nshutdown_lifetime 1 seconds\n"
        f"coredump_dir {place}\nmax_filedescriptors 4096\n"
    )
    command = ["squid", "-N", "-f", str(folder / "squid.conf")]
    return _ready(Proxy("squid", port, subprocess.Popen(command, stderr=subprocess.DEVNULL)))


def _tinyproxy(folder: Path, target: int) -> Proxy:
    port = _free_port()
    (folder / "tinyproxy.conf").write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nMaxClients 500\nConnectPort {target}\n"
        f'LogFile "{folder}/tinyproxy.log"\nLogLevel Connect\n'
    )
    command = ["tinyproxy", "-d", "-c", str(folder / "tinyproxy.conf")]
    return _ready(Proxy("tinyproxy", port, subprocess.Popen(command, stdout=subprocess.DEVNULL)))


def _ready(proxy: Proxy) -> Proxy:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", proxy.port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return proxy
    proxy.process.terminate()
    sys.exit(f"{proxy.name} does not listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return (int(fields[11]) + int(fields[12])) / TICK


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


if __name__ == "__main__":
    missing = [
        name
        for name in ("squid", "tinyproxy")
        if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
    if missing:
        sys.exit(f"missing: apt-get install --no-install-recommends {' '.join(missing)}")
    main()
