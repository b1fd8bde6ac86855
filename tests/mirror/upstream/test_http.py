"""Connections: TLS, large files, and what a server does with a connection that nobody uses."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import logging
import random
import socket
import ssl
import struct
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from gc import collect
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lockfiles.model import Digest
from mirror.errors import TruncatedError, UpstreamError
from mirror.store import Expected, Store
from mirror.upstream.failures import UnreachableError
from mirror.upstream.fetch import Page, fetch, get
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.index_server import Answer, IndexServer
from tests.wheels import digest

_IDLE = 1.2  # seconds: libcurl looks at a connection that nobody used for one


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
        pytest.raises(UpstreamError, match="certificate is not trusted") as caught,
    ):
        asyncio.run(run(server))
    assert "`cert`" in caught.value.hint
    assert not isinstance(caught.value, UnreachableError)  # another try would find the same


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
                assert isinstance(page, Page)
                bodies.append(page.body)
                await asyncio.sleep(_IDLE)
        return bodies

    with IndexServer(wheels, tls=tls(certificate) if secure else None) as server:
        server.faults["/page"] = once
        assert asyncio.run(run(server)) == [b"good"] * 3


def test_an_answer_that_nobody_asked_for_is_not_the_next_one() -> None:
    async def says_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                for body in (b"good", b"evil"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)
                    await writer.drain()
                    await asyncio.sleep(0.05)
        writer.close()

    async def run() -> list[bytes]:
        bodies = []
        async with await asyncio.start_server(says_more, "127.0.0.1", 0) as listening:
            place = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
            async with http_client(UpstreamSettings(indexes=(place,)), 2) as client:
                for _ in range(3):
                    page = await get(client, place, 0)
                    bodies.append(page.body if page else b"")
                    await asyncio.sleep(_IDLE)
        return bodies

    assert asyncio.run(run()) == [b"good"] * 3


class Proxy:
    """A forward proxy on loopback that wants credentials; all hosts lead to one server."""

    def __init__(self, server: IndexServer, credentials: str) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._wanted = b"Basic " + b64encode(credentials.encode())
        self.asked: list[str] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        self.asked.append(f"{method.decode()} {target.decode()}")
        if self._wanted not in head:
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            up_writer.write(head)
        await asyncio.gather(self._copy(reader, up_writer), self._copy(up_reader, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()


@pytest.mark.parametrize(
    ("credentials", "hosts", "gone"),
    [
        ("me:pw", "", ["CONNECT index.example:443"]),
        ("me:wrong", "", ["CONNECT index.example:443"]),
        ("me:pw", "other.example,dex.example", ["CONNECT index.example:443"]),
        ("me:pw", "127.0.0.1", []),
    ],
)
def test_a_proxy(
    wheels: Path,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    credentials: str,
    hosts: str,
    gone: list[str],
) -> None:
    """It is gone through with its credentials, also where its address is private, but not for `no_proxy`."""

    async def run(server: IndexServer) -> list[str]:
        proxy = Proxy(server, "me:pw")
        async with await asyncio.start_server(proxy.handle, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            monkeypatch.setenv("https_proxy", f"http://{credentials}@127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", hosts)
            index = "https://index.example/" if gone else server.index
            settings = UpstreamSettings(
                indexes=(index,), cert=str(certificate), trusted_hosts=("index.example",)
            )
            async with http_client(settings, 2) as client:
                for _ in range(3):
                    page = await get(client, index, 0)
                    assert page is not None
                    assert page.body == b"{}"
        return proxy.asked

    with IndexServer(wheels, tls=tls(certificate)) as server:
        server.faults["/"] = lambda answer: answer.send(200, b"{}")
        server.faults["/simple"] = server.faults["/"]
        if credentials == "me:pw":
            assert asyncio.run(run(server)) == gone
            return
        with pytest.raises(UpstreamError, match="407") as caught:
            asyncio.run(run(server))
        assert "wrong" not in str(caught.value)
        assert "USER:PASSWORD" in caught.value.hint


@pytest.mark.root
@pytest.mark.parametrize("given", ["http://127.0.0.9", "http://127.0.0.9:80", "127.0.0.9"])
def test_the_port_of_a_proxy_is_the_one_of_its_scheme(given: str, index: IndexServer) -> None:
    async def run() -> None:
        proxy = Proxy(index, "")
        async with await asyncio.start_server(proxy.handle, "127.0.0.9", 80):
            settings = UpstreamSettings(indexes=("http://index.example/",), proxy=given)
            async with http_client(settings, 2) as client:
                await get(client, "http://index.example/", 0)
        assert len(proxy.asked) == 1

    with pytest.raises(UpstreamError, match=r"proxy refuses access \(407\)"):
        asyncio.run(run())


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


PAGE = b"<a href=one-1.tar.gz>one</a>"


def ends(head: bytes, *, by_reset: list[bool]) -> Handler:
    """Answer with a page, and end the connection: each time as the first of these says, which is dropped."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + PAGE)
        await writer.drain()
        if by_reset.pop(0):
            await asyncio.sleep(0.1)
            lingering = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
            writer.transport.abort()
        writer.close()

    return answer


@pytest.mark.parametrize(
    ("head", "by_reset", "retries", "is_whole"),
    [
        (b"\r\n", [False], 0, True),
        (b"\r\n", [True], 0, False),
        (b"Connection: close\r\n\r\n", [True, True], 1, False),
        (b"\r\n", [True, False], 1, True),
        (b"Content-Length: 28\r\n\r\n", [True], 0, True),
        (b"Content-Length: 29\r\n\r\n", [False], 0, False),
    ],
)
def test_a_page_without_a_length_ends_with_its_connection_unless_that_is_cut_off(
    head: bytes, by_reset: list[bool], retries: int, is_whole: bool
) -> None:
    if is_whole:
        page = asyncio.run(ask(ends(head, by_reset=by_reset), retries=retries))
        assert page is not None
        assert page.body == PAGE
    else:
        with pytest.raises(TruncatedError, match="stopped in the middle"):
            asyncio.run(ask(ends(head, by_reset=by_reset), retries=retries))
    assert by_reset == []


def test_an_idle_connection_that_is_reset_is_nothing_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        head = b"Content-Length: 28\r\n\r\n"
        handler = ends(head, by_reset=[True, False])
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as listening:
            place = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
            async with http_client(UpstreamSettings(indexes=(place,)), 2) as client:
                for _ in range(2):
                    assert await get(client, place, 0)
                    await asyncio.sleep(0.3)

    with caplog.at_level(logging.ERROR, "asyncio"):
        asyncio.run(run())
        collect()  # what asyncio has to say of errors that nobody looked at, it says then
    assert caplog.text == ""


async def goes_on_before_it_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    with suppress(ConnectionError):
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)


async def drips_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    with suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)


async def ask(
    handler: Handler, place: str = "http://{}/", proxy: str | None = None, retries: int = 0
) -> Page | None:
    """Ask a server once, which may hold the answer back, or its bytes; `{}` is where it listens."""
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as listening:
        address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        settings = UpstreamSettings(
            indexes=(place.format(address),), proxy=proxy and proxy.format(address), timeout=0.2
        )
        async with asyncio.timeout(10), http_client(settings, 2) as client:
            return await get(client, place.format(address), retries)


@pytest.mark.parametrize("handler", [says_nothing, goes_on_before_it_answers, drips_headers])
@pytest.mark.parametrize(
    ("place", "proxy"), [("http://{}/", None), ("https://index.example/", "http://{}"), ("https://{}/", None)]
)
def test_an_answer_that_does_not_begin(handler: Handler, place: str, proxy: str | None) -> None:
    """Nor what a proxy says to CONNECT."""
    with pytest.raises(UnreachableError):
        asyncio.run(ask(handler, place, proxy))


@pytest.mark.parametrize(
    "header",
    [
        b"Location: https://me:hunter2@files.example/?signature=hunter2&" + b"x" * 10_000,
        b"Location: https://me:hunter2@files.example/?signature=hunter2\x0b",
        b"Location: https://me:hunter2@[/?signature=hunter2",
        b"Location: https://me:hunter2@xn--/?signature=hunter2",
        b"Location: ftp://me:hunter2@files.example/?signature=hunter2",
    ],
)
def test_an_error_does_not_tell_what_was_sent(header: bytes) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + header + b"\r\n\r\n")
        writer.close()

    with pytest.raises(UpstreamError) as caught:
        asyncio.run(ask(answers))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["files.example:99999", "[::1", "files.example/" + "a" * 9_000_000])
@pytest.mark.parametrize("is_named", [True, False])
def test_an_address_that_cannot_be_one(host: str, is_named: bool) -> None:
    url = f"https://me:hunter2@{host}"

    async def run() -> None:
        indexes = (url if is_named else "https://index.example/",)
        async with http_client(UpstreamSettings(indexes=indexes), 2) as client:
            await get(client, url, 0)

    with pytest.raises(UpstreamError, match="address") as caught:
        asyncio.run(run())
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a..b", ".example", "a" * 70, "xn--"])
def test_a_name_that_cannot_be_one_behind_a_proxy(name: str) -> None:
    async def opens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read()
        writer.close()

    with pytest.raises(UpstreamError):
        asyncio.run(ask(opens, f"https://{name}/", "http://{}"))


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "private address"),
        ("localhost", "private address"),
        ("[::127.0.0.1]", "private address"),
        ("[64:ff9b::7f00:1]", "private address"),
        ("[2002:7f00:1::]", "private address"),
        ("224.0.0.1", "private address"),
        ("168.63.129.16", "private address"),
        ("[64:ff9b::808:808]", "cannot be reached"),
    ],
)
def test_where_an_index_may_not_lead_though_its_own_name_is_unknown_here(host: str, reason: str) -> None:
    async def run() -> None:
        settings = UpstreamSettings(indexes=("https://index.invalid/simple",), timeout=0.2)
        async with http_client(settings, 2) as client:
            await get(client, f"http://{host}:9/", 0)

    with pytest.raises(UpstreamError, match=reason):
        asyncio.run(run())


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_no_way_to_write_a_private_address_gets_through(index: IndexServer, host: str) -> None:
    """Nor does a redirect that is written so."""
    port = index.url.rpartition(":")[2]

    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=("https://93.184.216.34/simple",)), 2) as client:
            await get(client, f"http://{host}:{port}/simple/flask/", 0)

    with pytest.raises(UpstreamError, match=r"private address|no address|cannot be reached"):
        asyncio.run(run())
    assert index.requests == []


def test_a_time_out_of_nought_is_none(index: IndexServer) -> None:
    index.faults["/"] = lambda answer: answer.send(200, b"here", {"Content-Encoding": "IDENTITY"})

    async def run() -> Page | None:
        async with http_client(UpstreamSettings(indexes=(index.index,), timeout=0), 2) as client:
            return await get(client, f"{index.url}/", 0)

    page = asyncio.run(run())
    assert page is not None
    assert page.body == b"here"


def test_credentials_stay_where_they_belong(index: IndexServer, wheels: Path) -> None:
    with IndexServer(wheels, host="127.0.0.2") as other:
        index.faults["/a"] = lambda answer: answer.send(302, headers={"Location": "/b"})
        index.faults["/b"] = lambda answer: answer.send(307, headers={"Location": f"{other.url}/c"})
        other.faults["/c"] = lambda answer: answer.send(301, headers={"Location": f"{index.url}/d"})
        index.faults["/d"] = lambda answer: answer.send(200, b"end")

        async def run() -> Page | None:
            async with http_client(UpstreamSettings(indexes=(index.index,)), 2) as client:
                return await get(client, f"{index.url.replace('//', '//me:pw@')}/a", 0)

        page = asyncio.run(run())
    assert page == Page(kind="application/octet-stream", body=b"end", url=f"{index.url}/d")
    sent = {path: "Authorization" in headers for path, headers in (*index.requests, *other.requests)}
    assert sent == {"/a": True, "/b": True, "/c": False, "/d": False}


@pytest.mark.parametrize("path", ["/evil/../private/x", "/evil/%2e%2E/private/x", "/./private/x"])
def test_credentials_of_a_path_are_sent_to_that_path(index: IndexServer, path: str) -> None:
    place = f"//{index.url.partition('//')[2]}/private/"
    settings = UpstreamSettings(indexes=(index.index,), authorization={place: "Bearer token"})

    async def run() -> None:
        async with http_client(settings, 2) as client:
            await get(client, index.url + path, 0)

    asyncio.run(run())
    assert [(path, headers["Authorization"]) for path, headers in index.requests] == [
        ("/private/x", "Bearer token")
    ]


def test_what_is_quoted_in_a_url_stays_so(index: IndexServer) -> None:
    path = "/files/a%2Bb%7Ec+%C3%A4?sig=a%2Fb%3D&x=%41"

    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 2) as client:
            await get(client, f"{index.url}{path}#fragment", 0)
            await get(client, f"{index.url}/ä b\n", 0)

    asyncio.run(run())
    assert [asked for asked, _ in index.requests] == [path, "/%C3%A4%20b"]


def packed(*texts: bytes) -> bytes:
    return b"".join(gzip.compress(text, mtime=0) for text in texts)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (packed(b"one, ", b"", b"two"), b"one, two"),
        (packed(b"one") + bytes(9), b"one"),  # as gzip allows
        (packed(b"one", b"two")[:-1], TruncatedError),
        (packed(b"one") + b"\x1f\x8b", TruncatedError),
        (packed(b"one") + b"two, and more than a header", "not gzip"),
        (packed(b"one") + packed(b"two")[:-8] + bytes(8), "not gzip"),
        (packed(*[bytes(1 << 22)] * 17), "no end"),
    ],
)
def test_a_page_in_several_gzip_members_is_read_to_its_end(
    index: IndexServer, body: bytes, found: bytes | str | type[UpstreamError]
) -> None:
    async def run() -> Page | None:
        async with http_client(UpstreamSettings(indexes=(index.url,)), 2) as client:
            return await get(client, f"{index.url}/", 0)

    index.faults["/"] = lambda answer: answer.send(200, body, {"Content-Encoding": "gzip"})
    if isinstance(found, bytes):
        page = asyncio.run(run())
        assert page is not None
        assert page.body == found
    else:
        match = found if isinstance(found, str) else "in the middle of the page"
        with pytest.raises(UpstreamError if isinstance(found, str) else found, match=match):
            asyncio.run(run())
