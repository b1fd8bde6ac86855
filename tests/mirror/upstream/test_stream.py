"""Connections: TLS, large files, and what a server does with a connection that nobody uses."""

from __future__ import annotations

import asyncio
import datetime
import random
import socket
import ssl
import struct
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lockfiles.model import Digest
from mirror.errors import UpstreamError
from mirror.store import Expected, Store
from mirror.upstream.fetch import fetch, get
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from mirror.upstream.stream import open_stream
from tests.index_server import Answer, IndexServer
from tests.wheels import digest


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of its own authority for loopback, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "loopback.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_large_file_over_tls(tmp_path: Path, wheels: Path, certificate: Path) -> None:
    file = wheels / "big-1.0.tar.gz"
    file.write_bytes(random.Random(1).randbytes(5_000_000))
    store, counted = Store(tmp_path / "store"), []

    async def run(server: IndexServer) -> str:
        settings = UpstreamSettings(indexes=(server.index,), cert=str(certificate))
        expected = Expected(label=file.name, digests=(Digest("sha256", digest(file)),), size=5_000_000)
        async with http_client(settings, 4) as client:
            place = f"{server.url}/files/{file.name}"
            many = (fetch(client, place, store, expected, 0, counted.append) for _ in range(6))
            return (await asyncio.gather(*many))[0]

    with IndexServer(wheels, tls=tls(certificate)) as server:
        sha256 = asyncio.run(run(server))
    assert store.path(sha256).read_bytes() == file.read_bytes()
    assert sum(counted) == 6 * 5_000_000


def test_a_certificate_that_nobody_trusts(wheels: Path, certificate: Path) -> None:
    async def run(server: IndexServer) -> None:
        async with http_client(UpstreamSettings(indexes=(server.index,)), 4) as client:
            await get(client, server.index, 0)

    with (
        IndexServer(wheels, tls=tls(certificate)) as server,
        pytest.raises(UpstreamError, match="certificate"),
    ):
        asyncio.run(run(server))


@pytest.mark.parametrize("unasked", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("secure", [True, False])
def test_an_idle_connection_that_the_server_ends_is_not_used_again(
    wheels: Path, certificate: Path, secure: bool, unasked: bytes
) -> None:
    def once(answer: Answer) -> None:
        answer.send(200, b"good")
        answer.handler.wfile.write(unasked)
        answer.cut()

    async def run(server: IndexServer) -> list[bytes]:
        bodies = []
        async with http_client(UpstreamSettings(indexes=(server.index,), cert=str(certificate)), 4) as client:
            for _ in range(3):
                page = await get(client, f"{server.url}/page", 0)
                assert isinstance(page, httpx.Response)
                bodies.append(page.content)
                await asyncio.sleep(0.2)
        return bodies

    with IndexServer(wheels, tls=tls(certificate) if secure else None) as server:
        server.faults["/page"] = once
        assert asyncio.run(run(server)) == [b"good"] * 3


def test_an_idle_connection_that_was_reset_is_one_to_give_up() -> None:
    async def run() -> tuple[bool, bool]:
        writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        server = await asyncio.start_server(lambda _, writer: writers.put_nowait(writer), "127.0.0.1", 0)
        async with server:
            stream = await open_stream("127.0.0.1", server.sockets[0].getsockname()[1])
            writer = await writers.get()
            idle = stream.get_extra_info("is_readable")
            linger = struct.pack("ii", 1, 0)  # close() then sends a reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            await asyncio.sleep(0.1)
            gone = stream.get_extra_info("is_readable")
            await stream.aclose()
        return idle, gone

    assert asyncio.run(run()) == (False, True)
