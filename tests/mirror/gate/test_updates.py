"""Resolving against an upstream index: its pages by a route, and the files that they link to by the proxy."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_server import IndexServer
from tests.mirror.gate.harness import running
from tests.mirror.gate.test_cli import through_forwarder
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
