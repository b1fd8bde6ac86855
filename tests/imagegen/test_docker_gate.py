"""Attacks from inside a real container whose only way out is a gate."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from imagegen import contained
from imagegen.contained import Ended, owner_of, run
from imagegen.plan import REPOSITORY
from imagegen.spec import find_image
from mirror.gate.audit import notes_path, verify
from mirror.gate.policyfile import parse_policy
from mirror.gate.running import home_of
from tests.imagegen.conftest import NAME, Sandbox, remove_images
from tests.mirror.gate.harness import DIALLED, hello, outside
from tests.mirror.stocking import publish_tree

pytestmark = pytest.mark.docker
POLICY = """
mirror = true
[[allow]]
host = "api.example"
ports = [{port}]
address = "127.0.0.1"
"""
# What a run writes that does nothing.
ONCE = ["start", "watch", "filter", "watch", "stop"]
# Runs inside. Each attempt prints its name and what came of it; none may print OPEN.
ATTACK = r"""
import ctypes, errno, glob, json, os, socket, struct, sys
aims = json.loads(sys.argv[1])
found = {}

def attempt(name, action):
    try:
        found[name] = f"OPEN {action()!r}"
    except OSError as error:
        found[name] = f"closed {errno.errorcode.get(error.errno, error)}"

def libc(name, *arguments):
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

def tcp(address, port):
    with socket.create_connection((address, port), 2) as link:
        return link.getpeername()

def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as query:
        query.settimeout(2)
        query.connect((address, port))
        query.send(b"\x13\x37\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01")
        return query.recv(512)

def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as echo:
        echo.settimeout(1)
        echo.sendto(b"\x08\0\0\0\0\1\0\1", (address, 0))
        return echo.recv(512)

def broadcast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        link.settimeout(1)
        link.sendto(b"anyone?", ("255.255.255.255", 67))
        return link.recv(512)

def gate(request):
    with socket.create_connection(("127.0.0.1", 3128), 5) as link:
        link.sendall(request)
        return link.recv(65536)

for address, port in aims["addresses"]:
    attempt(f"tcp {address}:{port}", lambda: tcp(address, port))
    attempt(f"udp {address}:{port}", lambda: udp(address, port))
for name in aims["names"]:
    attempt(f"name {name}", lambda: socket.getaddrinfo(name, 80))
attempt("dns elsewhere", lambda: udp("9.9.9.9", 53))
attempt("ping", lambda: ping("192.0.2.7"))
attempt("broadcast", lambda: broadcast())
for family, kind, protocol in aims["sockets"]:
    attempt(f"socket {family} {kind}", lambda: socket.socket(family, kind, protocol))
attempt("io_uring", lambda: libc("syscall", 425, 8, ctypes.create_string_buffer(120)))
attempt("the filter's socket", lambda: socket.socket(socket.AF_UNIX).connect("/run/lockstock/filter.sock"))
attempt("write /", lambda: open("/evil", "w"))
attempt("write /usr", lambda: open("/usr/evil", "w"))
attempt("write the forwarder", lambda: open("/run/lockstock/forwarder.py", "w"))
attempt("remove the socket", lambda: os.unlink("/run/lockstock/gate.sock"))
attempt("docker", lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"))
attempt("become root", lambda: os.setuid(0))
attempt("mount", lambda: libc("mount", b"x", b"/tmp", b"tmpfs", 0, 0))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
found["capabilities"] = status["CapEff"].strip() + " " + status["CapBnd"].strip()
found["no new privileges"] = status["NoNewPrivs"].strip()
found["uid"] = str(os.getuid())
every = [line for path in glob.glob("/proc/[0-9]*/status") for line in open(path).read().splitlines()]
found["filters"] = " ".join({line for line in every if "Seccomp_filters" in line})
found["interfaces"] = " ".join(sorted(name for _, name in socket.if_nameindex()))
for target in aims["targets"]:
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    found[f"connect {target}"] = gate(head)[:12].decode()
    plain = f"GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()
    found[f"get {target}"] = gate(plain)[:12].decode()
with socket.create_connection(("127.0.0.1", 3128), 5) as link:
    head = f"CONNECT {aims['api']} HTTP/1.1\r\nHost: {aims['api']}\r\n\r\n".encode()
    link.sendall(head)
    found["tunnel"] = link.recv(100)[:12].decode()
    link.sendall(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n")
    try:
        found["proxy in a proxy"] = repr(link.recv(100))
    except OSError:
        found["proxy in a proxy"] = "b''"
with socket.create_connection(("127.0.0.1", 3128), 5) as link:
    link.sendall(head)
    link.recv(100)
    link.sendall(bytes.fromhex(aims["hello"]))
    found["allowed"] = repr(link.recv(1))
print(json.dumps(found))
"""
# Family, type and protocol by their numbers, and how they stand in the log.
SOCKETS = {
    (2, 3, 1): ("raw socket", "AF_INET SOCK_RAW 1"),
    (2, 3 | 0x80000, 255): ("raw socket", "AF_INET SOCK_RAW 255"),
    (2, 10, 768): ("raw socket", "AF_INET SOCK_PACKET 768"),
    (10, 3, 58): ("raw socket", "AF_INET6 SOCK_RAW 58"),
    (17, 3, 768): ("raw socket", "AF_PACKET SOCK_RAW 768"),
    (17, 2, 768): ("raw socket", "AF_PACKET SOCK_DGRAM 768"),
    (31, 3, 1): ("socket", "AF_BLUETOOTH SOCK_RAW 1"),
    (38, 5, 0): ("socket", "AF_ALG SOCK_SEQPACKET 0"),
    (40, 1, 0): ("socket", "AF_VSOCK SOCK_STREAM 0"),
    (44, 3, 0): ("socket", "AF_XDP SOCK_RAW 0"),
}
# What later engines refuse by themselves, before the filter is asked.
ENGINES_OWN = {"AF_VSOCK SOCK_STREAM 0", "AF_ALG SOCK_SEQPACKET 0"}
ENCODED = [
    "169.254.169.254:80", "127.0.0.1:22", "[::1]:22", "[::ffff:169.254.169.254]:80", "2130706433:22",
    "0x7f.1:22",
    "0177.0.0.1:22", "127.1:22", "[64:ff9b::a9fe:a9fe]:80", "localhost:22", "%6c%6f%63alhost:22",
    "api.example@127.0.0.1:22", "api.example.evil.example:443", "xapi.example:443", "192.0.2.1:443",
]  # fmt: skip


@pytest.fixture
def upstream() -> Iterator[int]:
    """A server of this test's own on loopback, which gives one byte back."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    if client.recv(65536):
                        client.sendall(b"!")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@pytest.fixture
def host_port() -> Iterator[int]:
    """A port of the host that is open on all its addresses, as many services are."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def neighbour(sandbox: Sandbox) -> Iterator[str]:
    """Another container, which listens; gives its address."""
    command = ["python3", "-m", "http.server", "8000"]
    container = sandbox.engine.client.containers.run(
        sandbox.reference, command, detach=True, network_mode="bridge"
    )
    try:
        container.reload()
        yield str(container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])
    finally:
        container.remove(force=True)


def contain(sandbox: Sandbox, policy: str, *command: str, task: str = "attack") -> Ended:
    config = sandbox.project.config
    rules = parse_policy("attack.toml", policy, {})
    return run(config, find_image(config, NAME), sandbox.engine, rules, task, command)


def records(sandbox: Sandbox, ended: Ended, task: str = "attack") -> list[dict[str, Any]]:
    """Give the records of a log that verifies against the note of its run."""
    home, found = home_of(sandbox.project.config), []
    signer = home.signer()
    verify(home.log(task), signer.named(f"{signer.name}/{task}").verifier, ended.note, found.append)
    return found


def left_behind(sandbox: Sandbox, task: str) -> list[Any]:
    """Give the containers of a task that are still there."""
    owner = owner_of(sandbox.project.config, task)
    labels = [f"io.lockstock.{what}={owner}" for what in ("run", "watch")]
    listed = sandbox.engine.client.containers.list
    return [found for label in labels for found in listed(all=True, filters={"label": label})]


def test_nothing_gets_out_but_through_the_gate(
    sandbox: Sandbox, upstream: int, host_port: int, neighbour: str, capfd: pytest.CaptureFixture[str]
) -> None:
    gateways = sandbox.engine.gateways()
    addresses = [(address, port) for address in gateways for port in (host_port, 53, 22)]
    addresses += [(neighbour, 8000), ("169.254.169.254", 80), ("192.0.2.1", 443), ("2001:db8::1", 443)]
    targets = [*ENCODED, f"{neighbour}:8000", *(f"{address}:{host_port}" for address in gateways)]
    api = f"api.example:{upstream}"
    names = ["api.example", "localhost.example", "host.docker.internal", "metadata.google.internal"]
    aims = {
        "addresses": addresses,
        "names": names,
        "targets": targets,
        "api": api,
        "sockets": list(SOCKETS),
        "hello": hello("api.example").hex(),
    }
    DIALLED.clear()

    ended = contain(sandbox, POLICY.format(port=upstream), "python3", "-c", ATTACK, json.dumps(aims))

    assert ended.code == 0
    found = json.loads(capfd.readouterr().out)
    assert not {name: told for name, told in found.items() if told.startswith("OPEN")}
    assert len([name for name in found if name.startswith(("tcp ", "udp "))]) == 2 * len(addresses)
    for target in targets:
        assert found[f"connect {target}"] in ("HTTP/1.1 403", "HTTP/1.1 400"), target
        assert found[f"get {target}"] in ("HTTP/1.1 403", "HTTP/1.1 400"), target
    assert found["capabilities"] == "0000000000000000 0000000000000000"
    assert {found[f"socket {family} {kind}"] for family, kind, _ in SOCKETS} == {"closed EPERM"}
    assert (found["io_uring"], found["the filter's socket"]) == ("closed EPERM", "closed ECONNREFUSED")
    assert re.fullmatch(r"Seccomp_filters:\s+2", found["filters"])  # the engine's and ours, on every process
    assert (found["no new privileges"], found["uid"], found["interfaces"]) == (
        "1", "1000", "lo watch",
    )  # fmt: skip
    assert (found["tunnel"], found["proxy in a proxy"], found["allowed"]) == ("HTTP/1.1 200", "b''", "b'!'")

    assert outside() == []
    assert {address[1] for address in DIALLED} == {upstream}
    log = records(sandbox, ended)
    denied = [r for r in log if r["event"] == "blocked" or r.get("verdict") == "deny"]
    past = [r for r in denied if "protocol" in r]
    tried = {(r["protocol"], r["host"], r.get("port")) for r in past}
    assert {(way, *aim) for way in ("tcp", "udp") for aim in addresses} <= tried
    assert {("icmp", "192.0.2.7", None), ("udp", "255.255.255.255", 67)} <= tried
    assert {r["name"] for r in past if r["kind"] == "look-up"} >= {*names}
    kinds = {r["host"]: r["kind"] for r in past if r["kind"] != "look-up"}
    assert {kinds[address] for address in (*gateways, neighbour)} == {"private address"}
    assert kinds["169.254.169.254"] == "metadata service"
    assert [r["state"] for r in log if r["event"] in ("watch", "filter")] == ["on", "on", "off"]
    asked = {r["socket"]: r["kind"] for r in denied if "socket" in r}
    late = int(sandbox.engine.client.version()["Version"].split(".")[0]) >= 23
    assert {told for _, told in SOCKETS.values()} - {*asked} <= (ENGINES_OWN if late else set())
    assert {(kind, told) for told, kind in asked.items()} <= {*SOCKETS.values()}
    denied = [r for r in denied if "protocol" not in r and "socket" not in r]
    assert len(denied) == 2 * len(targets) + 1  # and the tunnel inside the tunnel
    assert {"metadata service", "private address", "raw address", "malformed", "host", "server name"} <= {
        r["kind"] for r in denied
    }
    assert not [r for r in log if r["event"] == "lookup"]
    assert [d.host for d in ended.report.destinations] == ["api.example"]


FLOOD = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    for number in range(50_000):
        link.sendto(b"x", (f"8.{number % 200}.{number % 199}.8", 1 + number % 60_000))
"""


def test_a_flood_past_the_gate_is_counted_and_fills_no_log(sandbox: Sandbox) -> None:
    ended = contain(sandbox, "", "python3", "-c", FLOOD, task="flood")
    assert ended.code == 0
    found = records(sandbox, ended, "flood")
    assert len(found) < 1500
    assert sum(one.times for one in ended.report.blocked) == 50_000


RAW_FLOOD = """
import socket, subprocess, sys, threading

def hammer(count):
    for number in range(count):
        try:
            socket.socket(socket.AF_INET, socket.SOCK_RAW, number % 5)
        except PermissionError:
            continue
        raise SystemExit("open")

if len(sys.argv) > 1:
    hammer(2_000)
else:
    threads = [threading.Thread(target=hammer, args=(2_000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    subprocess.run(["python3", *sys.orig_argv[1:], "again"], check=True)
    for thread in threads:
        thread.join()
    print("ended")
"""


def test_a_flood_of_raw_sockets_is_counted_and_fills_no_log(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = contain(sandbox, "mirror = true", "python3", "-c", RAW_FLOOD, task="raw")
    assert (ended.code, capfd.readouterr().out) == (0, "ended\n")
    assert len(records(sandbox, ended, "raw")) < 100
    found = {one.target: (one.kind, one.times) for one in ended.report.blocked}
    assert found == {f"AF_INET SOCK_RAW {number}": ("raw socket", 2_000) for number in range(5)}

    config = sandbox.project.folder / "lockstock.toml"
    log = str(home_of(sandbox.project.config).log("raw"))
    for command, told in (
        (["touched", "raw"], "AF_INET SOCK_RAW 4"),
        (["why", "raw"], "10000 blocked attempts of task raw"),
        (["replay", log, "-p", "test-run"], "0 differences"),
        (["tighten", log, "-p", "test-run"], "mirror = false"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "mirror", "gate", *command, "-c", str(config)],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert told in ran.stdout + ran.stderr


ONE_RAW = """
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
except OSError as error:
    raise SystemExit(error.errno)
"""


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ('_MACHINES = {"other": (', errno.EPERM, "there is no filter for programs of 64 bits on"),
        (
            'raise SystemExit(9)\n_MACHINES = {"x86_64": (',
            9,
            "the sandbox's first program did not tell of it",
        ),
    ],
)
def test_without_a_filter_the_run_says_so(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    program: str, code: int, reason: str,
) -> None:  # fmt: skip
    original = contained._program

    def changed(name: str, folder: Path) -> Path:
        made = original(name, folder)
        if name == "filter.py":
            made.chmod(0o644)
            made.write_text(re.sub(r'_MACHINES = \{"\w+": \(', program, made.read_text()))
        return made

    monkeypatch.setattr(contained, "_program", changed)
    ended = contain(sandbox, "", "python3", "-c", ONE_RAW, task="unfiltered")
    assert (ended.code, ended.report.blocked) == (code, ())
    assert f"note: raw sockets fail, but are not recorded here: {reason}" in capfd.readouterr().err
    (record,) = [r for r in records(sandbox, ended, "unfiltered") if r["event"] == "filter"][-1:]
    assert record["state"] == "none"
    assert record["reason"].startswith(reason)


# What packages can put into an image's environment, and what its base can bring.
HOSTILE = """
FROM {image}
USER 0
RUN mv /opt/lockstock/venv/bin/python3 /opt/lockstock/venv/bin/real \\
 && printf '#!/bin/sh\\necho replaced $*; exec /usr/bin/python3 "$@"' > /opt/lockstock/venv/bin/python3 \\
 && chmod 755 /opt/lockstock/venv/bin/python3
USER sandbox
HEALTHCHECK --interval=1s CMD grep Seccomp_filters /proc/self/status > /tmp/health
"""


def test_nothing_of_the_image_runs_before_the_filter_or_beside_it(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    engine, name = sandbox.engine, f"{NAME}-hostile"
    dockerfile = HOSTILE.format(image=sandbox.reference).encode()
    engine.client.images.build(
        fileobj=BytesIO(dockerfile), tag=f"{REPOSITORY}/{name}", network_mode="none", rm=True, forcerm=True
    )
    try:
        config = sandbox.project.config
        spec = replace(find_image(config, NAME), name=name)
        rules = parse_policy("attack.toml", "", {})
        ended = run(config, spec, engine, rules, "hostile", ("sh", "-c", "sleep 3; cat /tmp/health"))
    finally:
        remove_images(engine, f"{REPOSITORY}/{name}")
    assert (ended.code, capfd.readouterr().out) == (1, "")
    assert [r["event"] for r in records(sandbox, ended, "hostile")] == ONCE


LEFT = """
for _ in 1 2 3 4 5; do (sleep 0.1 &); done; sleep 1
grep -c '^State:.*zombie' /proc/[0-9]*/status | grep -cv ':0'
kill -TERM 1; sleep 10
"""


def test_the_first_program_is_an_init(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    ended = contain(sandbox, "", "sh", "-c", LEFT, task="init")
    assert (ended.code, capfd.readouterr().out) == (128 + signal.SIGTERM, "0\n")


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/etc/passwd", 126), ("/tmp", 126)])
def test_what_cannot_be_started(sandbox: Sandbox, command: str, code: int) -> None:
    assert contain(sandbox, "", command, task="nosuch").code == code


ORPHANED = """
import socket, time
while "watch" in [name for _, name in socket.if_nameindex()]:
    time.sleep(0.05)
with socket.socket() as link:
    raise SystemExit(link.connect_ex(("192.0.2.1", 443)))
"""


def test_a_watch_that_dies_takes_the_route_with_it(sandbox: Sandbox) -> None:
    owner = owner_of(sandbox.project.config, "orphan")

    def kill() -> None:
        listed = sandbox.engine.client.containers.list
        while not listed(filters={"label": f"io.lockstock.run={owner}"}):  # of those that run
            time.sleep(0.05)
        (watch,) = listed(filters={"label": f"io.lockstock.watch={owner}"})
        watch.remove(force=True)  # so that there is nothing to stop or to remove any more

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    ended = contain(sandbox, "", "python3", "-c", ORPHANED, task="orphan")
    killer.join()
    assert ended.code == errno.ENETUNREACH
    states = [record["state"] for record in records(sandbox, ended, "orphan") if record["event"] == "watch"]
    assert states == ["on", "lost"]


UNWATCHED = """
import json, socket
found = [" ".join(name for _, name in socket.if_nameindex())]
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as link:
        try:
            link.connect(("192.0.2.1", 443))
        except OSError as error:
            found.append(error.strerror)
print(json.dumps(found))
"""


OWN = """
import socket
assert socket.getfqdn() and socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
    with socket.create_server((host, 0), family=family) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
"""


def test_what_programs_do_by_themselves_is_no_attempt(sandbox: Sandbox) -> None:
    """Test suites ask for their own name, and talk to themselves by IPv4 and IPv6."""
    ended = contain(sandbox, "", "python3", "-c", OWN, task="own")
    assert (ended.code, ended.report.blocked) == (0, ())


@pytest.mark.parametrize("device", ["/dev/net/none", "/dev/null"])  # the engine refuses, or the watch fails
def test_without_a_watch_there_is_no_way_either(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], device: str
) -> None:
    monkeypatch.setattr("imagegen.engines.watch._DEVICE", device)
    ended = contain(sandbox, "", "python3", "-c", UNWATCHED, task="unwatched")
    told = capfd.readouterr()
    assert "is not recorded here" in told.err
    assert json.loads(told.out) == ["lo", "Network is unreachable", "Network is unreachable"]
    states = [(r["event"], r.get("state")) for r in records(sandbox, ended, "unwatched")]
    assert states[-4:] == [("start", None), ("watch", "none"), ("filter", "on"), ("stop", None)]
    assert left_behind(sandbox, "unwatched") == []


def test_clients_in_the_sandbox_use_the_mirror(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    layout = sandbox.project.layout
    snapshot = layout.snapshots.current()
    assert snapshot is not None
    publish_tree(layout, str(layout.snapshots.current_name()), snapshot)
    script = (
        "set -e; python3 -m venv /tmp/v; PIP_FIND_LINKS= /tmp/v/bin/pip install -q --no-cache-dir alpha; "
        "/tmp/v/bin/alpha; uv venv -q /tmp/u; uv pip install -q --python /tmp/u/bin/python alpha; "
        "! /tmp/v/bin/pip download -q nosuch; test -f hello.txt; touch made; exit 3"
    )
    ended = contain(sandbox, "mirror = true", "sh", "-c", script, task="clients")
    told = capfd.readouterr()
    assert ended.code == 3, told
    assert "2.1" in told.out
    assert {(p.package, p.locks) for p in ended.report.packages} >= {
        ("alpha", ("app",)),
        ("beta-package", ("app",)),
    }
    missing = [r for r in records(sandbox, ended, "clients") if r["event"] == "missing"]
    assert {r["package"] for r in missing} == {"nosuch"}
    assert not (sandbox.project.folder / "code" / "made").exists()


def test_the_command(sandbox: Sandbox, tmp_path: Path) -> None:
    config = str(sandbox.project.folder / "lockstock.toml")
    command = [sys.executable, "-m", "imagegen", "run", NAME, "--policy", "test-run", "-c", config, "--"]
    script = "curl -sS https://docs.example/ ; python3 -c 'import urllib.request as u; u.urlopen(\"http://docs.example/\")'"
    command[-1:-1] = ["--post", f"cp /dev/stdin {tmp_path}/posted"]
    ended = subprocess.run(
        [*command, "sh", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 1, ended.stderr
    assert "tini" not in ended.stderr.lower()
    assert ended.stderr.splitlines()[-1].startswith(
        "reached no host outside; 0 package files from the mirror; blocked"
    )
    assert "docs.example:80 (host)" in ended.stderr.splitlines()[-1]
    assert left_behind(sandbox, NAME) == []
    assert (tmp_path / "posted").read_text() in notes_path(
        home_of(sandbox.project.config).log(NAME)
    ).read_text()
    assert f"{REPOSITORY}/{NAME}" in sandbox.reference


def test_two_runs_add_to_one_log(sandbox: Sandbox) -> None:
    first = contain(sandbox, "", "true", task="twice")
    second = contain(sandbox, "", "false", task="twice")
    assert (first.code, second.code) == (0, 1)
    found = records(sandbox, second, "twice")
    assert [r["event"] for r in found] == [*ONCE, *ONCE]
    records(sandbox, first, "twice")


@contextmanager
def begun(sandbox: Sandbox, task: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, whose command has begun and will not end by itself."""
    command = [sys.executable, "-m", "imagegen", "run", NAME, "-p", "test-run", "--task", task]
    command += [
        "-c",
        str(sandbox.project.folder / "lockstock.toml"),
        "--",
        "sh",
        "-c",
        "echo begun; sleep 60",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"begun\n"
        yield child


def test_what_a_killed_run_left_is_removed_by_the_next(sandbox: Sandbox) -> None:
    with begun(sandbox, "killed") as child:
        child.kill()
    assert left_behind(sandbox, "killed")
    ended = contain(sandbox, "", "true", task="killed")
    assert ended.code == 0
    assert left_behind(sandbox, "killed") == []
    events = [record["event"] for record in records(sandbox, ended, "killed")]
    assert events == ["start", "watch", "filter", "recovered", *ONCE]


def test_an_interrupted_run_leaves_nothing(sandbox: Sandbox) -> None:
    with begun(sandbox, "stopped") as child:
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    assert left_behind(sandbox, "stopped") == []
    home, found = home_of(sandbox.project.config), []
    signer = home.signer()
    verified = verify(home.log("stopped"), signer.named(f"{signer.name}/stopped").verifier, each=found.append)
    assert verified.unsealed == 0
    assert found[-1]["event"] == "stop"
