"""A real gate with real upstreams on loopback, and a record of every address this process dialled."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mirror.gate.core import Identify, Settings
from mirror.gate.log import Log
from mirror.gate.note import Signer
from mirror.gate.policyfile import parse_policy
from mirror.gate.server import Gate

SIGNER = Signer.generate("gate.example/task")
DIALLED: list[tuple[Any, ...]] = []
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        DIALLED.append(arguments[1])


sys.addaudithook(_watch)


def outside() -> list[tuple[Any, ...]]:
    """Give what was dialled and is not this machine's loopback: must be nothing, ever."""
    return [address for address in DIALLED if not str(address[0]).startswith("127.") and address[0] != "::1"]


@dataclass
class Upstream:
    """A server on loopback; `seen` is all it was sent, over all connections."""

    port: int = 0
    seen: bytearray = field(default_factory=bytearray)
    connections: int = 0


@dataclass
class Resolver:
    """Names and their answers in order; the last is given again. `asked` is every look-up."""

    answers: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, name: str) -> tuple[str, ...]:
        self.asked.append(name)
        answers = self.answers[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass
class Running:
    """A gate that runs, and what a test asks of it."""

    gate: Gate
    log: Log
    socket: Path
    port: int
    resolver: Resolver

    async def send(self, data: bytes, *, wait: float = 5, eof: bool = False) -> bytes:
        """Send bytes as they are and give all that comes back until the gate closes."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(data)
        if eof:
            writer.write_eof()
        try:
            async with asyncio.timeout(wait):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def ask(
        self, method: str, target: str, *headers: str, host: str = "gate"
    ) -> tuple[int, str, dict[str, Any]]:
        """Make one request; gives status, reason and the JSON body of a denial."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        answer = await self.send("\r\n".join(lines).encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        _, status, reason = head.split(b"\r\n")[0].decode().split(" ", 2)
        return int(status), reason, json.loads(body) if b"application/json" in head and body else {}

    async def tunnel(self, authority: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """Open a tunnel and give its streams and the head of the answer."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        return reader, writer, await reader.readuntil(b"\r\n\r\n")

    def records(self, event: str = "") -> list[dict[str, Any]]:
        """Give the records so far."""
        found = [json.loads(line) for line in self.log.path.read_text().splitlines()]
        return [record for record in found if not event or record["event"] == event]


@asynccontextmanager
async def running(
    folder: Path,
    policy: str,
    *,
    resolver: Resolver | None = None,
    identify: Identify | None = None,
    places: dict[str, tuple[str, ...]] | None = None,
    every: int = 16,
    **changes: Any,
) -> AsyncIterator[Running]:
    """Run a gate for the block."""
    resolver = resolver or Resolver()
    settings = Settings(
        policy=parse_policy("test.toml", policy, places or {}), resolver=resolver, tls=client_tls(folder)
    )
    log = Log(folder / "task.jsonl", SIGNER, every=every)
    gate = Gate(replace(settings, **changes), log, task="" if identify else "task", identify=identify)
    socket = folder / "gate.sock"
    await gate.listen_unix(socket)
    port = await gate.listen_tcp("127.0.0.1", 0)
    try:
        yield Running(gate, log, socket, port, resolver)
    finally:
        await gate.close()
        log.close()


@asynccontextmanager
async def upstream(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    """Run a server on loopback for the block."""
    state = Upstream()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state.seen += reader._buffer  # type: ignore[attr-defined]  # what came before this began
        original = reader.feed_data

        def feed(data: bytes) -> None:
            state.seen += data
            original(data)

        reader.feed_data = feed  # type: ignore[method-assign]  # all that arrives is kept for the test
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0, ssl=tls, backlog=1024)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back what comes."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def answering(answer: bytes) -> Handler:
    """Make a server that gives one answer to whatever head it reads."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        await reader.readexactly(length)
        writer.write(answer)
        await writer.drain()

    return handle


def server_tls(folder: Path, *names: str) -> ssl.SSLContext:
    """Make a certificate for names, signed by the folder's own authority."""
    authority, key = _authority(folder)
    own = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(names[0], authority.subject, own)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{names[0]}.pem"
    pem.write_bytes(_key_pem(own) + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def client_tls(folder: Path) -> ssl.SSLContext:
    """Make a context that trusts the folder's own authority alone."""
    _authority(folder)
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


@cache
def hello(name: str | None) -> bytes:
    """Make the ClientHello that a real client sends to a server of that name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path = folder / "ca.key"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        certificate = (
            _builder("test authority", name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        path.write_bytes(_key_pem(key))
    found = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), found


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
