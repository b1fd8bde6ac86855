"""Real clients and real upstreams: pip and npm by routes and the proxy, curl and git by TLS in tunnels."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_server import IndexServer
from tests.mirror.gate.harness import answering, running, server_tls, upstream
from tests.mirror.gate.test_cli import through_forwarder
from tests.npm_registry import NpmRegistry, make_tarball
from tests.wheels import make_wheel

pytestmark = pytest.mark.anyio
POLICY = """
[[route]]
name = "pip"
upstream = "http://index.example:{port}/{base}"
address = "127.0.0.1"
[[allow]]
host = "index.example"
ports = [{port}]
address = "127.0.0.1"
"""
PIP = ["-m", "pip", "--isolated", "download", "--no-cache-dir", "--no-deps", "--retries=0", "-d", "got"]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    make_wheel(tmp_path / "upstream", "alpha", "9.0")
    with IndexServer(tmp_path / "upstream") as server:
        yield server


@pytest.mark.parametrize(
    ("base", "link", "place", "ways"),
    [
        ("simple", "http://index.example:{port}/files/{name}", "pip", {"route", "forward"}),
        ("", "../../files/{name}", "pip/simple", {"route"}),  # a route that has the files, too
    ],
)
async def test_pip_by_a_route(
    index: IndexServer, tmp_path: Path, base: str, link: str, place: str, ways: set[str]
) -> None:
    port = int(index.url.rpartition(":")[2])
    (wheel,) = index.folder.iterdir()
    url = link.format(port=port, name=wheel.name)
    index.pages["/simple/alpha/"] = f'<a href="{url}">{wheel.name}</a>'.encode()
    async with running(tmp_path, POLICY.format(port=port, base=base)) as gate:
        script = (
            f"cd {tmp_path} && no_proxy=127.0.0.1 exec {sys.executable} {' '.join(PIP)} "
            f"-i $GATE/route/{place} --trusted-host index.example alpha"
        )
        ended = await asyncio.to_thread(through_forwarder, gate.socket, "sh", "-c", script)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert (tmp_path / "got" / wheel.name).read_bytes() == wheel.read_bytes()
        assert {record["way"] for record in gate.records("request")} == ways
        assert {record["host"] for record in gate.records("connected")} == {"index.example"}
        before = len(index.requests)
        told = await asyncio.to_thread(
            through_forwarder,
            gate.socket,
            "sh",
            "-c",
            f"curl -sS --noproxy '*' -X PUT $GATE/route/{place}/alpha/",
        )
        assert "PUT is not allowed on route pip" in told.stdout
        assert len(index.requests) == before


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
async def test_npm_by_a_route(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    with NpmRegistry() as registry:
        port = int(registry.url.rpartition(":")[2])
        registry.url = f"http://index.example:{port}"
        registry.tarballs = [make_tarball("@scope/lib", "2.1.0")]
        async with running(tmp_path, POLICY.format(port=port, base="")) as gate:
            script = (
                f"cd {tmp_path}/project && export HOME=$PWD no_proxy=127.0.0.1 && npm init -y >/dev/null && "
                "npm install --no-audit --no-fund --fetch-retries=0 --registry=$GATE/route/pip/ @scope/lib"
            )
            ended = await asyncio.to_thread(through_forwarder, gate.socket, "sh", "-c", script)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert (tmp_path / "project" / "node_modules" / "@scope" / "lib" / "index.js").exists()
            assert [record["way"] for record in gate.records("request")] == ["route", "forward"]


REFS = b"ce013625030ba8dba906f756967f9e9ca394464a\trefs/heads/main\n"
TUNNEL = '[[allow]]\nhost = "api.example"\nports = [{port}]\naddress = "127.0.0.1"'


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("curl -sS --cacert {ca} https://api.example:{port}/", "refs/heads/main"),
        ("env GIT_SSL_CAINFO={ca} git ls-remote https://api.example:{port}/x.git", "refs/heads/main"),
    ],
)
async def test_tls_from_end_to_end(tmp_path: Path, command: str, told: str) -> None:
    """The certificate that the client sees is the upstream's own: nothing in between has another."""
    tls = server_tls(tmp_path, "api.example")
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    handler = answering(answer + b"Content-Length: %d\r\n\r\n%s" % (len(REFS), REFS))
    async with upstream(handler, tls) as up, running(tmp_path, TUNNEL.format(port=up.port)) as gate:
        words = command.format(ca=tmp_path / "ca.pem", port=up.port).split()
        ended = await asyncio.to_thread(through_forwarder, gate.socket, *words)
        assert told in ended.stdout, ended.stderr
        assert up.connections >= 1
        assert {record["way"] for record in gate.records("connected")} == {"tunnel"}
