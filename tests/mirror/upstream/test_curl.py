"""Connections by libcurl: HTTP/2, who shares one, certificates, and bodies that nobody wants."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Event

import pytest
from yarl import URL

from lockfiles.model import Digest
from mirror.errors import TruncatedError, UpstreamError
from mirror.store import Expected, Store
from mirror.upstream.curl import Request, Route, Wire
from mirror.upstream.failures import UnreachableError
from mirror.upstream.fetch import Page, fetch, get
from mirror.upstream.http import http_client
from mirror.upstream.settings import UpstreamSettings
from tests.index_server import Answer, IndexServer
from tests.mirror.registry import free_port
from tests.mirror.upstream.test_http import certificate, tls
from tests.wheels import digest, make_wheel

__all__ = ["certificate"]  # a fixture

NGINX = """\
daemon off; pid {folder}/nginx.pid; error_log stderr; {user}
events {{}}
http {{
    log_format protocols '$uri $server_protocol $connection';
    access_log {folder}/access.log protocols;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate}; ssl_certificate_key {certificate};
        root {folder}/root; keepalive_requests 100;
        default_type text/html;
    }}
}}
"""


@contextmanager
def nginx(folder: Path, certificate: Path) -> Iterator[str]:
    """Serve `folder`/root over TLS, with HTTP/2 for those who can."""
    port, user = free_port(), "" if os.getuid() else "user root;"
    config = NGINX.format(folder=folder, port=port, user=user, certificate=certificate)
    (folder / "nginx.conf").write_text(config)
    with subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]) as server:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"https://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_pages_share_a_connection_of_http_2_and_files_have_their_own(
    tmp_path: Path, certificate: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(20):
        (root / f"{number}.html").write_text(f"page {number}")
    wheels = [make_wheel(root, f"w{number}", "1.0") for number in range(3)]

    async def run(url: str) -> list[Page | None]:
        settings = UpstreamSettings(indexes=(url,), cert=str(certificate))
        async with http_client(settings, 32) as client:
            pages = await asyncio.gather(*(get(client, f"{url}/{number}.html", 0) for number in range(20)))
            store = Store(tmp_path / "store")
            for wheel in wheels:
                expected = Expected(label=wheel.name, digests=(Digest("sha256", digest(wheel)),))
                await fetch(client, f"{url}/{wheel.name}", store, expected, 0, lambda _: None)
        return pages

    with nginx(tmp_path, certificate) as url:
        pages = asyncio.run(run(url))
    assert [page and page.body for page in pages] == [b"page %d" % number for number in range(20)]
    asked = [line.split() for line in (tmp_path / "access.log").read_text().splitlines()]
    of_pages = Counter((protocol, connection) for uri, protocol, connection in asked if uri.endswith("html"))
    assert len(of_pages) == 1
    ((shared, count),) = of_pages.items()
    assert (shared[0], count) == ("HTTP/2.0", 20)
    of_files = {(protocol, connection) for uri, protocol, connection in asked if uri.endswith("whl")}
    assert {protocol for protocol, _ in of_files} == {"HTTP/1.1"}
    assert shared[1] not in {connection for _, connection in of_files}


async def relayed(port: int, is_dead: Callable[[], bool]) -> asyncio.Server:
    """Pass on what comes; all that comes over a connection that is dead is dropped without a word."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if is_dead():
                    await reader.read()
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    return await asyncio.start_server(relay, "127.0.0.1", 0)


def test_a_shared_connection_that_died_is_not_tried_again(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "root").mkdir()
    for number in range(8):
        (tmp_path / "root" / f"{number}.html").write_text(f"page {number}")
    dead = [False]

    async def run(port: int) -> list[Page | None]:
        async with await relayed(port, lambda: dead[0]) as relay:
            url = f"https://127.0.0.1:{relay.sockets[0].getsockname()[1]}"
            settings = UpstreamSettings(indexes=(url,), cert=str(certificate), timeout=0.5)
            async with http_client(settings, 8) as client:
                await get(client, f"{url}/0.html", 0)
                dead[0] = True
                asyncio.get_running_loop().call_later(0.4, dead.__setitem__, 0, False)
                return await asyncio.gather(*(get(client, f"{url}/{n}.html", 1) for n in range(8)))

    with nginx(tmp_path, certificate) as url:
        pages = asyncio.run(run(int(url.rpartition(":")[2])))
    assert [page and page.body for page in pages] == [b"page %d" % number for number in range(8)]


def test_a_server_ends_connections_of_http_2_now_and_then(tmp_path: Path, certificate: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "page.html").write_text("here")

    async def run(url: str) -> list[Page | None]:
        settings = UpstreamSettings(indexes=(url,), cert=str(certificate))
        async with http_client(settings, 32) as client:
            turns = asyncio.Semaphore(32)

            async def one() -> Page | None:
                async with turns:
                    return await get(client, f"{url}/page.html", 2)

            return await asyncio.gather(*(one() for _ in range(600)))

    with nginx(tmp_path, certificate) as url:
        pages = asyncio.run(run(url))
    assert {page and page.body for page in pages} == {b"here"}
    lines = (tmp_path / "access.log").read_text().splitlines()
    assert 6 <= len({line.split()[2] for line in lines}) <= 12


@pytest.mark.parametrize("secure", [True, False])
def test_over_http_1_nobody_waits_for_the_answers_of_others(
    wheels: Path, certificate: Path, secure: bool
) -> None:
    """Which would count as the silence of the server, too."""
    together = Barrier(8)

    def waits(answer: Answer) -> None:
        with suppress(BrokenBarrierError):
            together.wait(5)
        answer.send(200, b"here", {"Connection": "close"})
        answer.cut()

    async def run(server: IndexServer) -> list[Page | None]:
        settings = UpstreamSettings(indexes=(server.index,), cert=str(certificate), timeout=2)
        async with http_client(settings, 8) as client:
            asked = (get(client, f"{server.url}/{number}", 0) for number in range(16))
            return [*await asyncio.gather(*islice(asked, 8)), *await asyncio.gather(*asked)]

    with IndexServer(wheels, tls=tls(certificate) if secure else None) as server:
        server.faults = {f"/{number}": waits for number in range(16)}
        pages = asyncio.run(run(server))
    assert [page and page.body for page in pages] == [b"here"] * 16
    assert not together.broken


@pytest.mark.parametrize("ends_well", [True, False])
def test_over_tls_a_page_without_a_length_ends_as_tls_does(
    wheels: Path, certificate: Path, ends_well: bool
) -> None:
    """Else anybody on the way could cut it short."""

    def unmeasured(answer: Answer) -> None:
        answer.handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nall of it")
        if ends_well:
            answer.handler.connection.unwrap()  # TLS's own closing message
        answer.cut()

    async def run(server: IndexServer) -> Page | None:
        settings = UpstreamSettings(indexes=(server.index,), cert=str(certificate))
        async with http_client(settings, 2) as client:
            return await get(client, f"{server.url}/page", 0)

    with IndexServer(wheels, tls=tls(certificate)) as server:
        server.faults["/page"] = unmeasured
        if not ends_well:
            with pytest.raises(TruncatedError, match="in the middle"):
                asyncio.run(run(server))
            return
        page = asyncio.run(run(server))
    assert page is not None
    assert page.body == b"all of it"


def ask(url: str, settings: UpstreamSettings) -> Page | None:
    async def run() -> Page | None:
        async with http_client(settings, 2) as client:
            return await get(client, url, 0)

    return asyncio.run(run())


@pytest.mark.parametrize("variable", [None, "{}", "{other}:{}"])
def test_certificates_in_a_folder(
    wheels: Path, tmp_path: Path, certificate: Path, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "authorities").mkdir()
    words = ["openssl", "x509", "-hash", "-noout", "-in", str(certificate)]
    name = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    (folder / f"{name}.0").write_bytes(certificate.read_bytes())
    if variable:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
        monkeypatch.setenv("SSL_CERT_DIR", variable.format(folder, other=tmp_path))
    with IndexServer(wheels, tls=tls(certificate)) as server:
        server.faults["/page"] = lambda answer: answer.send(200, b"here")
        cert = None if variable else str(folder)
        page = ask(f"{server.url}/page", UpstreamSettings(indexes=(server.index,), cert=cert))
    assert page is not None
    assert page.body == b"here"


@pytest.mark.parametrize("name", ["cert", "client_cert"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_certificate_setting_that_cannot_be_used(
    wheels: Path, tmp_path: Path, certificate: Path, name: str, content: bytes | None
) -> None:
    file = tmp_path / "mine.pem"
    if content:
        file.write_bytes(content)
    with IndexServer(wheels, tls=tls(certificate)) as server:
        settings = {"cert": str(certificate), name: str(file)}
        with pytest.raises(UpstreamError, match="certificate setting cannot be used") as caught:
            ask(f"{server.url}/page", UpstreamSettings(indexes=(server.index,), **settings))
    assert "pip config" in (caught.value.hint or "")


@pytest.mark.parametrize("key", [None, "encrypted"])
def test_a_certificate_of_our_own_without_a_key_that_can_be_used(
    index: IndexServer, tmp_path: Path, certificate: Path, key: str | None
) -> None:
    own = tmp_path / "own.pem"
    command = ["openssl", "x509", "-in", str(certificate)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if key:
        command = ["openssl", "pkey", "-in", str(certificate), "-aes256", "-passout", "pass:hunter2"]
        text += subprocess.run(command, capture_output=True, text=True, check=True).stdout
    own.write_text(text)
    with pytest.raises(UpstreamError, match="certificate setting cannot be used"):
        ask(index.index, UpstreamSettings(indexes=(index.index,), client_cert=str(own)))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "%31%32%37.0.0.1"])
def test_nothing_else_is_dialled_than_what_was_checked(index: IndexServer, host: str) -> None:
    """However libcurl reads the name."""
    port = int(index.url.rpartition(":")[2])

    async def run(address: str) -> int:
        settings = UpstreamSettings(indexes=(index.index,), timeout=0.5)
        async with Wire(settings, 2) as wire:
            place = URL.build(scheme="http", authority=f"{host}:{port}", path="/page", encoded=True)
            answer = await wire.get(place, Request(begin=lambda _: None), Route(addresses=(address,)))
            return answer.status

    with pytest.raises(UnreachableError):
        asyncio.run(run("192.0.2.1"))
    assert index.requests == []
    assert asyncio.run(run("127.0.0.1")) == 404


@pytest.mark.parametrize(
    "addresses",
    [
        ("fe80::1%lo", "127.0.0.1"),  # as names of the local network have
        ("127.0.0.9", "127.0.0.1"),
        ("2001:db8::1", "192.0.2.1", "127.0.0.1"),
    ],
)
def test_of_several_addresses_the_one_that_lives_is_found(
    index: IndexServer, addresses: tuple[str, ...]
) -> None:
    async def run() -> int:
        async with Wire(UpstreamSettings(indexes=(), timeout=5), 2) as wire:
            place = URL(index.url).with_host("index.example")
            return (await wire.get(place, Request(begin=lambda _: None), Route(addresses=addresses))).status

    assert asyncio.run(run()) == 404


@pytest.mark.parametrize("host", ["::1", "0:0:0:0:0:0:0:1", "::1%lo"])
def test_an_address_of_ipv6(host: str) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")
        writer.close()

    async def run() -> Page | None:
        async with await asyncio.start_server(answers, "::1", 0) as listening:
            url = f"http://[{host}]:{listening.sockets[0].getsockname()[1]}/"
            async with http_client(UpstreamSettings(indexes=(url,)), 2) as client:
                return await get(client, url, 0)

    page = asyncio.run(run())
    assert page is not None
    assert page.body == b"here"


def test_where_no_socket_can_be_had_nothing_is_printed(
    index: IndexServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where there is no IPv6 at all."""

    async def run() -> None:
        async with http_client(UpstreamSettings(indexes=(index.index,)), 2) as client:
            await get(client, index.index, 0)
            await asyncio.sleep(0.1)
            most = resource.getrlimit(resource.RLIMIT_NOFILE)
            with Path(os.devnull).open() as last:
                resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), most[1]))
            try:
                await client.ask(index.index, lambda _: None, alone=True)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, most)

    index.faults["/simple"] = lambda answer: (answer.send(200, b"here"), answer.cut())
    with pytest.raises(UnreachableError):
        asyncio.run(run())
    assert capfd.readouterr().err == ""


def test_a_header_is_one_line(index: IndexServer) -> None:
    place = f"//{index.url.partition('//')[2]}/"
    settings = UpstreamSettings(indexes=(index.index,), authorization={place: "Bearer hunter2\r\nEvil: yes"})
    with pytest.raises(UpstreamError, match="Authorization cannot be sent") as caught:
        ask(f"{index.url}/simple/flask/", settings)
    assert "hunter2" not in str(caught.value)
    assert index.requests == []


@pytest.mark.parametrize(("size", "is_read"), [(100, True), (50_000_000, False)])
def test_of_a_redirect_no_large_body_is_read(index: IndexServer, size: int, is_read: bool) -> None:
    sent = Event()

    def redirects(answer: Answer) -> None:
        with suppress(ConnectionError):
            answer.send(302, bytes(size), {"Location": "/b"})
            sent.set()

    index.faults["/a"] = redirects
    index.faults["/b"] = lambda answer: answer.send(200, b"end")
    page = ask(f"{index.url}/a", UpstreamSettings(indexes=(index.url,)))
    assert page is not None
    assert page.body == b"end"
    assert sent.is_set() == is_read


@pytest.mark.parametrize("status", [302, 404])
@pytest.mark.parametrize("stalls", [False, True])
def test_a_body_that_nobody_wants_need_not_come(index: IndexServer, status: int, stalls: bool) -> None:
    done = Event()

    def answers(answer: Answer) -> None:
        answer.send(status, b"begun", {"Location": "/b"}, length=100)
        answer.handler.wfile.flush()
        if stalls:
            done.wait(5)
        answer.cut()

    index.faults["/a"] = answers
    index.faults["/b"] = lambda answer: answer.send(200, b"end")
    page = ask(f"{index.url}/a", UpstreamSettings(indexes=(index.url,), timeout=0.3))
    done.set()
    assert (page and page.body) == (b"end" if status == 302 else None)


def test_the_body_of_an_answer_that_drips_is_not_waited_for_without_an_end(index: IndexServer) -> None:
    def stalls(answer: Answer) -> None:
        answer.send(200, b"begun", length=100)
        answer.handler.wfile.flush()
        time.sleep(3)

    index.faults["/page"] = stalls
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="takes too long"):
        ask(f"{index.url}/page", UpstreamSettings(indexes=(index.url,), timeout=0.3))
    assert time.monotonic() - begun < 2.5
