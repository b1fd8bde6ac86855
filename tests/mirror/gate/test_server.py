"""The gate as its clients meet it: bytes on a socket, real upstreams, and nothing dialled that is denied."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from mirror.gate.audit import verify
from mirror.gate.core import Identify, Identity, Settings
from mirror.gate.dial import OwnAddressError, dial, system_resolver
from mirror.gate.errors import LogError, TokenError
from mirror.gate.http1 import Head
from mirror.gate.log import Log
from mirror.gate.packages import Shelf, asked_package
from mirror.gate.policyfile import load_policy
from mirror.gate.server import Gate
from mirror.snapshot import Selected, Snapshot, Stocked
from tests.mirror.gate.harness import (
    DIALLED,
    SIGNER,
    Resolver,
    Running,
    answering,
    client_tls,
    echo,
    hello,
    outside,
    running,
    server_tls,
    upstream,
)

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Up: 1\r\nConnection: keep-alive\r\n\r\nhi"


def policy_for(port: int, extra: str = "") -> str:
    return f"""
mirror = true
[[allow]]
host = "api.example"
ports = [{port}]
address = "127.0.0.1"
{extra}
[[allow]]
host = "*.out.example"
ports = [443, 80]
"""


@pytest.fixture(autouse=True)
def _nothing_leaves() -> Iterator[None]:
    """No test may make this process dial anything but loopback."""
    DIALLED.clear()
    yield
    assert outside() == []


async def through(gate: Running, folder: Path, authority: str, name: str) -> bytes:
    """Open a tunnel, speak TLS through it, and give what an echo gives back."""
    reader, writer, head = await gate.tunnel(authority)
    assert head.startswith(b"HTTP/1.1 200"), head
    context, incoming, outgoing = client_tls(folder), ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            data = await reader.read(65536)
            if not data:
                return b""
            incoming.write(data)
    session.write(b"ping")
    writer.write(outgoing.read())
    while True:
        try:
            answer = session.read(100)
            writer.close()
            return answer
        except ssl.SSLWantReadError:
            incoming.write(await reader.read(65536))


async def test_a_tunnel_to_an_allowed_host(tmp_path: Path) -> None:
    tls = server_tls(tmp_path, "api.example")
    async with upstream(echo, tls) as up, running(tmp_path, policy_for(up.port)) as gate:
        assert await through(gate, tmp_path, f"api.example:{up.port}", "api.example") == b"ping"
        assert await through(gate, tmp_path, f"API.Example.:{up.port}", "api.example") == b"ping"
        await asyncio.sleep(0.05)
        ended = gate.records("tunnel")
        assert [record["host"] for record in ended] == ["api.example"] * 2
        assert all(record["sent"] > 200 and record["received"] > 200 for record in ended)
        assert gate.resolver.asked == []  # an address in the policy needs no look-up


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("other.example:443", "host"), ("out.example:443", "host"), ("a.out.example:22", "port"),
        ("127.0.0.1:22", "private address"), ("[::1]:22", "private address"),
        ("169.254.169.254:80", "metadata service"), ("[fd00:ec2::254]:80", "metadata service"),
        ("10.0.0.1:443", "private address"), ("[::ffff:127.0.0.1]:80", "private address"),
        ("[64:ff9b::7f00:1]:80", "private address"), ("2130706433:80", "raw address"),
        ("0x7f.1:80", "raw address"),
        ("0177.0.0.1:80", "raw address"), ("127.1:80", "raw address"),
        ("198.51.100.1:443", "private address"),
        ("[fe80::1%25eth0]:80", "raw address"), ("localhost:80", "host"), ("%6c%6fcalhost:80", "malformed"),
        ("u:secret@a.out.example:443", "malformed"), ("a.out.example", "malformed"),
        ("a..out.example:443", "malformed"),
        ("a.out.example:443:80", "malformed"), ("a.out.example:0", "malformed"),
        ("a.out.example:443/x", "malformed"),
        (f"{'a' * 64}.out.example:443", "malformed"),
        ("xn--a.out.example:443", "malformed"),
    ],
)  # fmt: skip
async def test_a_denied_tunnel_is_neither_looked_up_nor_dialled(
    tmp_path: Path, target: str, kind: str
) -> None:
    async with running(tmp_path, policy_for(443)) as gate:
        status, reason, body = await gate.ask("CONNECT", target, host=target)
        assert status in (400, 403)
        assert "lockstock" in reason
        assert body["kind"] == kind
        assert body["policy"] == "test"
        assert gate.resolver.asked == []
        assert DIALLED == []
        record = next(r for r in gate.records() if r.get("kind"))
        assert record["kind"] == kind
        assert "secret" not in gate.log.path.read_text()


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://a.out.example\x00.evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a.out.example/\x00 HTTP/1.1\r\nHost: a.out.example\r\n\r\n",
        b"GET http://\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a.out.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://a.out.example/ HTTP/1.1\r\nHost: a.out.example:81\r\n\r\n",
        b"CONNECT a.out.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        b"GET http://a.out.example@127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET http://127.0.0.1\\@a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\n\r\n",
        b"GET https://a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\n\r\n",
        b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST http://a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\nContent-Length: 1\r\n"
        b"Content-Length: 5\r\n\r\nabcde",
        b"POST http://a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST http://a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1;x=\ny\r\nZ\r\n0\r\n\r\n",
        b"GET http://a.out.example/ HTTP/1.1\nHost: a.out.example\r\n\r\n",
        b"GET http://a.out.example/ HTTP/1.1\r\nHost: a.out.example\r\nX: 1\nGET http://b/ HTTP/1.1\r\n\r\n",
        b"GET http://a.out.example/ HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET http://a.out.example/ HTTP/1.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        b"GET http://a.out.example/" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_has_two_readings_gets_one_refusal(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path, policy_for(443)) as gate:
        follow_up = b"GET /simple/ HTTP/1.1\r\nHost: gate\r\n\r\n"
        answer = await gate.send(data + follow_up, eof=True)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 411", b"HTTP/1.1 431"))
        assert answer.count(b"\r\nConnection: close\r\n") == 1  # what was pipelined after it is not answered
        assert gate.resolver.asked == []
        assert DIALLED == []
        assert [r["kind"] for r in gate.records("blocked")] == ["malformed"]


async def test_what_is_pipelined_after_a_denial_is_never_looked_at(tmp_path: Path) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port)) as gate:
        data = b"CONNECT no.example:443 HTTP/1.1\r\nHost: no.example:443\r\n\r\n"
        good = f"CONNECT api.example:{up.port} HTTP/1.1\r\nHost: api.example:{up.port}\r\n\r\n".encode()
        answer = await gate.send(data + good + hello("api.example"), eof=True)
        assert answer.startswith(b"HTTP/1.1 403")
        assert answer.count(b"\r\nConnection: close\r\n") == 1
        assert up.connections == 0
        assert len(gate.records("decision")) == 1


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (hello("evil.example"), "asks the server for evil.example"),
        (hello("sub.api.example"), "asks the server"),
        (hello(None), "names no server"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "not TLS"),
        (b"SSH-2.0-OpenSSH\r\n", "not TLS"),
        (hello("api.example")[:-40], "before its ClientHello was whole"),
        (b"", "before its ClientHello was whole"),
        (b"\x16\x03\x01\x40\x01", "TLS record"),
    ],
)
async def test_the_server_name_must_be_the_host(tmp_path: Path, first: bytes, reason: str) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port)) as gate:
        reader, writer, head = await gate.tunnel(f"api.example:{up.port}")
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(first)
        writer.write_eof()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        await asyncio.sleep(0.05)
        assert up.seen == b""
        denied = gate.records("decision")[-1]
        assert denied["kind"] == "server name"
        assert reason in denied["reason"]


async def test_a_hello_that_comes_in_pieces_and_one_sent_ahead(tmp_path: Path) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port)) as gate:
        first = hello("api.example")
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        for place in range(0, len(first), 100):
            writer.write(first[place : place + 100])
            await asyncio.sleep(0.002)
        assert await reader.readexactly(len(first)) == first
        writer.write_eof()
        assert await reader.read() == b""
        ahead = f"CONNECT api.example:{up.port} HTTP/1.1\r\nHost: api.example:{up.port}\r\n\r\n".encode()
        answer = await gate.send(ahead + first + b"x" * 300_000, eof=True)
        assert answer.endswith(first + b"x" * 300_000)


async def test_a_proxy_inside_a_proxy(tmp_path: Path) -> None:
    """The second CONNECT goes inside an open tunnel: it is no ClientHello, so nothing goes out."""
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port)) as gate:
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        writer.write(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert up.seen == b""


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [
        (("127.0.0.1",), "private address"), (("10.0.0.1",), "private address"),
        (("169.254.169.254",), "metadata service"), (("::1",), "private address"),
        (("64:ff9b::a00:1",), "private address"), (("::ffff:127.0.0.1",), "private address"),
        (("fe80::1%eth0",), "private address"), (("224.0.0.1",), "private address"),
        (("0.0.0.0",), "private address"), (("2002:7f00:1::",), "private address"),
        (("8.8.8.8", "127.0.0.1"), "private address"), (("2600::1", "10.1.1.1"), "private address"),
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused_whole(
    tmp_path: Path, addresses: tuple[str, ...], kind: str
) -> None:
    resolver = Resolver({"a.out.example": [addresses]})
    async with running(tmp_path, policy_for(443), resolver=resolver) as gate:
        for method, target in (("CONNECT", "a.out.example:443"), ("GET", "http://a.out.example/")):
            status, _, body = await gate.ask(method, target, host=target.removeprefix("http://").rstrip("/"))
            assert (status, body["kind"]) == (403, kind)
        assert DIALLED == []
        assert gate.records("lookup")[0]["addresses"]


async def test_answers_that_change_gain_nothing(tmp_path: Path) -> None:
    """One look-up for one request; the second answer is checked anew for the second request."""
    resolver = Resolver({"a.out.example": [("192.0.2.9",), ("127.0.0.1",)]})
    async with running(tmp_path, policy_for(443), resolver=resolver) as gate:
        for _ in range(2):
            status, _, body = await gate.ask("CONNECT", "a.out.example:443", host="a.out.example:443")
            assert (status, body["kind"]) == (403, "private address")
        assert resolver.asked == ["a.out.example"] * 2
        assert DIALLED == []


@pytest.mark.parametrize("answer", [("not an address",), ()])
async def test_look_ups_that_give_nothing(tmp_path: Path, answer: tuple[str, ...]) -> None:
    async with running(tmp_path, policy_for(443), resolver=Resolver({"a.out.example": [answer]})) as gate:
        status, _, body = await gate.ask("CONNECT", "a.out.example:443", host="a.out.example:443")
        assert (status, body["kind"]) == (502, "upstream")


async def test_a_plain_request_goes_on_alone(tmp_path: Path) -> None:
    """What follows a body on the same connection is never handed to the upstream."""
    async with upstream(answering(OK)) as up, running(tmp_path, policy_for(up.port)) as gate:
        host = f"api.example:{up.port}"
        data = (
            f"POST http://{host}/v1?token=abc HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n"
            "TE: trailers\r\n"
            "Connection: keep-alive, X-Drop\r\nX-Drop: 1\r\nProxy-Authorization: Basic eDp5\r\n"
            "X-Keep: 1\r\n\r\n"
            f"bodyGET http://{host}/second HTTP/1.1\r\nHost: {host}\r\n\r\n"
        )
        answer = await gate.send(data.encode(), eof=True)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\nhi")
        assert b"Connection: close" in answer
        assert b"keep-alive" not in answer
        seen = bytes(up.seen)
        assert seen.startswith(b"POST /v1?token=abc HTTP/1.1\r\nHost: " + host.encode())
        assert seen.endswith(b"\r\n\r\nbody")
        for word in (b"X-Drop", b"x-drop", b"roxy-", b"te:", b"second"):
            assert word not in seen
        assert b"x-keep: 1" in seen
        record = gate.records("request")[0]
        sent = (record["path"], record["query_bytes"], record["sent"], record["received"])
        assert sent == ("/v1", 9, len(seen), 2)
        assert "abc" not in gate.log.path.read_text()


async def test_redirects_to_denied_places_end_at_the_gate(tmp_path: Path) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n"
    async with upstream(answering(moved)) as up, running(tmp_path, policy_for(up.port)) as gate:
        answer = await gate.send(
            f"GET http://api.example:{up.port}/ HTTP/1.1\r\nHost: api.example:{up.port}\r\n\r\n".encode()
        )
        assert b"302" in answer.split(b"\r\n")[0]
        status, _, body = await gate.ask("GET", "http://169.254.169.254/latest/", host="169.254.169.254")
        assert (status, body["kind"]) == (403, "metadata service")
        assert {address[1] for address in DIALLED} == {up.port}


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\nSet-Cookie: x\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    ],
)  # fmt: skip
async def test_hostile_upstreams(tmp_path: Path, answer: bytes) -> None:
    async with upstream(answering(answer)) as up, running(tmp_path, policy_for(up.port)) as gate:
        host = f"api.example:{up.port}"
        status, _, body = await gate.ask("GET", f"http://{host}/", host=host)
        assert (status, body["kind"]) == (502, "upstream")


async def test_an_answer_that_is_cut_off_is_cut_off_for_the_client_too(tmp_path: Path) -> None:
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    async with upstream(answering(short)) as up, running(tmp_path, policy_for(up.port)) as gate:
        host = f"api.example:{up.port}"
        answer = await gate.send(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert b"Content-Length: 10" in answer or b"content-length: 10" in answer or answer == b""
        assert not answer.endswith(b"abc\n")
        await asyncio.sleep(0.05)
        assert gate.records("decision")[-1]["kind"] == "upstream"


ROUTE = """
[[route]]
name = "staging"
upstream = "https://staging.example:{port}/base"
address = "127.0.0.1"
methods = ["GET", "POST"]
paths = ["/v1/"]
credential = {{ env = "STAGING", scheme = "Bearer" }}
"""


async def test_a_route_adds_what_the_sandbox_never_sees(tmp_path: Path) -> None:
    tls = server_tls(tmp_path, "staging.example")
    async with (
        upstream(answering(OK), tls) as up,
        running(tmp_path, ROUTE.format(port=up.port), secrets={"staging": "Bearer s3cret"}) as gate,
    ):
        data = (
            "POST /route/staging/v1/items?x=1 HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer mine\r\n"
            "Cookie: a=b\r\nContent-Length: 3\r\n\r\nabc"
        )
        answer = await gate.send(data.encode())
        assert answer.endswith(b"hi")
        seen = bytes(up.seen)
        assert seen.startswith(b"POST /base/v1/items?x=1 HTTP/1.1\r\n")
        assert b"Authorization: Bearer s3cret\r\n" in seen
        assert b"mine" not in seen
        assert b"a=b" not in seen
        for method, path, kind in (
            ("DELETE", "/v1/items", "method"), ("GET", "/v2/", "path"), ("GET", "/v1/../v2", "path"),
            ("GET", "/v1/%2e%2e/v2", "path"), ("GET", "/v1//x", "path"),
        ):  # fmt: skip
            status, _, body = await gate.ask(method, f"/route/staging{path}")
            assert (status, body["kind"]) == (403, kind)
        assert up.connections == 1
        assert "s3cret" not in gate.log.path.read_text()


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin", "X_Rewrite_URL: /admin",
        "Forwarded: host=evil.example",
        "X-Forwarded-Host: evil.example", "x_api_key: mine", "X-Api-Key: mine", "Authorization: mine",
    ],
)  # fmt: skip
async def test_headers_that_steer_stay_behind(tmp_path: Path, header: str) -> None:
    """A method or a path that the upstream takes from a header is one that the policy never saw."""
    tls = server_tls(tmp_path, "staging.example")
    policy = ROUTE.replace('scheme = "Bearer"', 'header = "X-Api-Key"')
    async with (
        upstream(answering(OK), tls) as up,
        running(tmp_path, policy.format(port=up.port), secrets={"staging": "s3cret"}) as gate,
    ):
        assert (await gate.ask("POST", "/route/staging/v1/items", header, "X-Kept: 1"))[0] == 200
        seen = bytes(up.seen)
        assert header.partition(": ")[2].encode() not in seen
        assert b"x-kept: 1" in seen
        assert b"X-Api-Key: s3cret\r\n" in seen


async def test_a_route_in_the_clear(tmp_path: Path) -> None:
    text = '[[route]]\nname = "r"\nupstream = "http://devpi.example:{port}/root"\naddress = "127.0.0.1"'
    async with upstream(answering(OK)) as up, running(tmp_path, text.format(port=up.port)) as gate:
        assert (await gate.ask("GET", "/route/r/simple/"))[0] == 200
        assert bytes(up.seen).startswith(b"GET /root/simple/ HTTP/1.1\r\nHost: devpi.example:")


async def test_a_name_that_leads_to_this_host_is_refused() -> None:
    """Its ports are open to programs here, even at an address that is public."""
    async with upstream(echo) as up:
        here = (ip_address("127.0.0.1"),)
        with pytest.raises(OwnAddressError, match="this host itself"):
            await dial(here, up.port, own=False)
        (await dial(here, up.port, own=True)).close()


async def test_no_search_domain_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """`api.example` is not `api.example.corp.example`, whatever resolv.conf says."""
    asked: list[str] = []

    def getaddrinfo(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await system_resolver("api.example") == ("192.0.2.1",)
    assert asked == ["api.example."]


async def test_a_route_wants_the_right_certificate(tmp_path: Path) -> None:
    tls = server_tls(tmp_path, "other.example")
    async with (
        upstream(answering(OK), tls) as up,
        running(tmp_path, ROUTE.format(port=up.port), secrets={"staging": "Bearer s3cret"}) as gate,
    ):
        status, reason, _ = await gate.ask("GET", "/route/staging/v1/")
        assert status == 502
        assert "certificate" in reason
        assert b"s3cret" not in up.seen


def make_tree(folder: Path) -> tuple[Path, Shelf]:
    tree = folder / "tree"
    (tree / "simple" / "idna").mkdir(parents=True)
    (tree / "simple" / "idna" / "index.html").write_text("<a href='../../files/idna.whl'>idna</a>")
    (tree / "simple" / "idna" / "index.json").write_text("{}")
    (tree / "files").mkdir()
    (tree / "files" / "idna.whl").write_bytes(b"0123456789")
    (tree / "secret").symlink_to("/etc/passwd")
    digest = hashlib.sha256(b"0123456789").hexdigest()
    stocked = Stocked(
        ecosystem="pypi", name="idna", version="3.10", filename="idna.whl", sha256=digest, size=10, url=""
    )
    chosen = Selected(lock="app", target="t", artifacts=(digest,))
    return tree, Shelf.of(Snapshot.of([], [stocked], [chosen]))


async def get(gate: Running, target: str, *headers: str, method: str = "GET") -> tuple[bytes, bytes]:
    lines = [f"{method} {target} HTTP/1.1", "Host: gate", "Connection: close", *headers, "", ""]
    head, _, body = (await gate.send("\r\n".join(lines).encode())).partition(b"\r\n\r\n")
    return head, body


async def test_the_mirror_is_served_and_written_down(tmp_path: Path) -> None:
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf) as gate:
        head, body = await get(gate, "/files/idna.whl")
        assert body == b"0123456789"
        etag = (
            next(line for line in head.split(b"\r\n") if line.startswith(b"ETag")).decode().partition(": ")[2]
        )
        assert (await get(gate, "/files/idna.whl", "Range: bytes=2-4"))[1] == b"234"
        assert (await get(gate, "/files/idna.whl", "Range: bytes=2-4", 'If-Range: "x"'))[1] == b"0123456789"
        assert b" 416 " in (await get(gate, "/files/idna.whl", "Range: bytes=99-"))[0]
        assert b" 304 " in (await get(gate, "/files/idna.whl", f"If-None-Match: {etag}"))[0]
        head, body = await get(gate, "/files/idna.whl", method="HEAD")
        assert b"Content-Length: 10" in head
        assert body == b""
        assert b"text/html" in (await get(gate, "/simple/idna/"))[0]
        accept = "Accept: application/vnd.pypi.simple.v1+json"
        assert b"vnd.pypi.simple.v1+json" in (await get(gate, "/simple/idna/", accept))[0]
        assert b"Location: /simple/idna/" in (await get(gate, "/simple/idna"))[0]
        served = gate.records("served")[0]
        assert (served["package"], served["version"], served["locks"]) == ("idna", "3.10", ["app"])
        assert served["sha256"] == hashlib.sha256(b"0123456789").hexdigest()
        part = gate.records("served")[1]
        assert (part["package"], part["sha256"], part["bytes"]) == ("idna", served["sha256"], 3)
        assert (part["status"], part["first"], part["size"]) == (206, 2, 10)
        assert [r["bytes"] for r in gate.records("served") if r["method"] == "HEAD"] == [0]


async def test_who_leaves_before_the_last_byte_was_served_all_the_same(tmp_path: Path) -> None:
    """A file that is all but whole is one that the sandbox has."""
    tree, shelf = make_tree(tmp_path)
    (tree / "files" / "large.whl").write_bytes(b"x" * 20_000_000)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf) as gate:
        reader, writer = await asyncio.open_unix_connection(gate.socket)
        writer.write(b"GET /files/large.whl HTTP/1.1\r\nHost: gate\r\n\r\n")
        await reader.readexactly(1_000_000)
        writer.transport.abort()
        async with asyncio.timeout(5):
            while not gate.records("served"):
                await asyncio.sleep(0.02)
        (served,) = gate.records("served")
        assert 1_000_000 < served["bytes"] < served["size"] == 20_000_000
        assert served["sha256"] == hashlib.sha256(b"x" * 20_000_000).hexdigest()


async def test_a_budget_ends_a_file_in_the_middle(tmp_path: Path) -> None:
    tree, shelf = make_tree(tmp_path)
    (tree / "files" / "large.whl").write_bytes(b"x" * 20_000_000)
    policy = "mirror = true\n[task]\nreceived = 1_000_000"
    async with running(tmp_path, policy, tree=tree, shelf=shelf) as gate:
        assert len(await gate.send(b"GET /files/large.whl HTTP/1.1\r\nHost: gate\r\n\r\n")) < 2_000_000
        assert gate.records("decision")[-1]["kind"] == "budget"
        assert (await gate.ask("GET", "/simple/"))[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/secret", "/files/..%2f..%2fsecret", "/files/%00",
        "/files/idna.whl/", "/files/./idna.whl", "//etc/passwd", "/files//idna.whl",
        "/..%5c..%5cetc", "/files/",
        "/%2fetc/passwd", "/files/idna.whl%0a", "/nothing",
    ],
)  # fmt: skip
async def test_nothing_outside_of_the_tree_is_served(tmp_path: Path, path: str) -> None:
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf) as gate:
        assert (await get(gate, path))[0].startswith(b"HTTP/1.1 404")


async def test_requests_on_one_connection_are_answered_in_turn(tmp_path: Path) -> None:
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf) as gate:
        one = b"GET /files/idna.whl HTTP/1.1\r\nHost: gate\r\n\r\n"
        answer = await gate.send(one * 3, eof=True)
        assert answer.count(b"0123456789") == 3


@pytest.mark.parametrize(
    ("path", "kind", "near"),
    [
        ("/simple/idn/", "name close to a locked one", "idna"), ("/simple/Requests/", "not in lock", ""),
        ("/simple/idnaa/", "name close to a locked one", "idna"),
    ],
)  # fmt: skip
async def test_packages_that_are_missing(tmp_path: Path, path: str, kind: str, near: str) -> None:
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf) as gate:
        status, reason, _ = await gate.ask("GET", path)
        assert status == 404
        assert near in reason
        record = gate.records("missing")[0]
        assert (record["kind"], record["near"]) == (kind, near)


def test_which_package_a_path_asks_for() -> None:
    assert asked_package("/simple/Foo_Bar/") == ("pypi", "foo-bar")
    assert asked_package("/py/simple/foo") == ("pypi", "foo")
    assert asked_package("/npm/left-pad") == ("npm", "left-pad")
    assert asked_package("/npm/@scope%2fname") == ("npm", "@scope/name")
    assert asked_package("/npm/left-pad/-/left-pad-1.0.0.tgz") is None
    assert asked_package("/files/x.whl") is None
    assert asked_package("/simple/one%0Atwo/") is None  # would be two lines of a report


async def test_rates_are_kept(tmp_path: Path) -> None:
    policy = 'mirror = true\n[task]\nrate = "1/h"\nburst = 2\n'
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, policy, tree=tree, shelf=shelf) as gate:
        heads = [(await get(gate, "/files/idna.whl"))[0] for _ in range(3)]
        assert [head.split(b" ")[1] for head in heads] == [b"200", b"200", b"429"]
        assert gate.records("decision")[-1]["kind"] == "rate"


async def test_a_rate_and_a_budget_are_of_one_destination(tmp_path: Path) -> None:
    allow = '[[allow]]\nhost = "{}.example"\nports = [{}]\naddress = "127.0.0.1"\n{}\n'
    async with upstream(answering(OK)) as up:
        limits = (("rated", 'rate = "1/h"\nburst = 2'), ("bounded", "received = 2"), ("free", ""))
        policy = "".join(allow.format(name, up.port, limit) for name, limit in limits)
        async with running(tmp_path, policy) as gate:
            for name, statuses in (("rated", [200, 200, 429]), ("bounded", [200, 403]), ("free", [200] * 5)):
                host = f"{name}.example:{up.port}"
                asked = [(await gate.ask("GET", f"http://{host}/", host=host))[0] for _ in statuses]
                assert asked == statuses, name


@pytest.mark.parametrize("limit", ["sent = 5000", "received = 5000"])
async def test_a_budget_ends_a_tunnel_in_the_middle(tmp_path: Path, limit: str) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port, limit)) as gate:
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        writer.write(hello("api.example"))
        await reader.read(100)
        got = 0
        with suppress(OSError):
            for _ in range(1000):
                writer.write(b"x" * 1000)
                await writer.drain()
                got += len(await reader.read(65536))
                if reader.at_eof():
                    break
        assert reader.at_eof() or reader.exception()
        assert got <= 6000
        await asyncio.sleep(0.05)
        assert len(up.seen) <= 6000
        assert gate.records("decision")[-1]["kind"] == "budget"
        status, _, body = await gate.ask("CONNECT", f"api.example:{up.port}", host=f"api.example:{up.port}")
        assert (status, body["kind"]) == (403, "budget")


async def test_a_budget_ends_a_plain_request(tmp_path: Path) -> None:
    async with upstream(answering(OK)) as up, running(tmp_path, policy_for(up.port, "sent = 10")) as gate:
        host = f"api.example:{up.port}"
        data = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 11\r\n\r\n{'x' * 11}"
        answer = await gate.send(data.encode())
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"x" * 11 not in up.seen


async def test_what_goes_out_in_a_head_counts(tmp_path: Path) -> None:
    async with upstream(answering(OK)) as up, running(tmp_path, policy_for(up.port, "sent = 900")) as gate:
        host = f"api.example:{up.port}"
        secret = "s" * 500
        assert (await gate.ask("GET", f"http://{host}/{secret}", host=host))[0] == 200
        for headers in ((), (f"X-Secret: {secret}",)):
            status, _, body = await gate.ask("GET", f"http://{host}/{secret}", *headers, host=host)
            assert (status, body["kind"]) == (403, "budget")
        assert bytes(up.seen).count(secret.encode()) == 1


@pytest.mark.parametrize("path", ["/files/idna.whl", "/simple/idna"])
async def test_who_asks_on_and_takes_no_answer_is_cut_off(tmp_path: Path, path: str) -> None:
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf, idle_seconds=0.2) as gate:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(gate.socket))
            client.setblocking(False)
            asking = f"HEAD {path} HTTP/1.1\r\nHost: gate\r\n\r\n".encode() * 50_000
            async with asyncio.timeout(20):
                with pytest.raises(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(client, asking)
            await free(gate)


async def test_who_does_not_take_the_end_of_an_answer_is_cut_off(tmp_path: Path) -> None:
    """What the kernel does not take is not kept for longer than the gate waits for anyone."""
    tree, shelf = make_tree(tmp_path)
    full, other = socket.socketpair()
    full.setblocking(False)
    size = full.send(bytes(1 << 18)) + 30_000
    for end in (full, other):
        end.close()
    (tree / "files" / "large").write_bytes(bytes(size))
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf, idle_seconds=0.2) as gate:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(gate.socket))
            client.send(b"GET /files/large HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n")
            while not gate.gate._clients:
                await asyncio.sleep(0.01)
            await free(gate)
            client.setblocking(False)
            got = 0
            async with asyncio.timeout(10):  # the connection is cut a moment after its task has ended
                while data := await asyncio.get_running_loop().sock_recv(client, 1 << 18):
                    got += len(data)
            assert 0 < got < size


async def free(gate: Running) -> None:
    """Wait until no client is connected any more."""
    async with asyncio.timeout(10):
        while gate.gate._clients:
            await asyncio.sleep(0.01)


async def test_slow_clients_end(tmp_path: Path) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port), head_seconds=0.2) as gate:
        answer = await gate.send(b"GET / HT")
        assert answer.startswith(b"HTTP/1.1 408")
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        writer.write(hello("api.example")[:50])
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert up.seen == b""


async def test_a_client_that_has_nothing_more_to_ask_is_no_attempt(tmp_path: Path) -> None:
    """Clients keep connections open for later; that one of them ends unused is nothing to tell."""
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf, head_seconds=0.2) as gate:
        assert (await gate.send(b"")) == b""
        answer = await gate.send(b"GET /simple/idna/ HTTP/1.1\r\nHost: gate\r\n\r\n")
        assert answer.endswith(b"idna</a>")
        assert gate.records("blocked") == []
        assert (await gate.send(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_an_idle_tunnel_ends_and_a_busy_one_does_not(tmp_path: Path) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port), idle_seconds=0.3) as gate:
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        first = hello("api.example")
        writer.write(first)
        await reader.readexactly(len(first))
        for _ in range(5):
            await asyncio.sleep(0.15)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        await asyncio.sleep(0.05)
        assert gate.records("tunnel")[0]["ended"] == "idle"


async def test_more_connections_than_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, "", connections=2) as gate:
        held = [await asyncio.open_unix_connection(gate.socket) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert (await gate.ask("GET", "/"))[0] == 503
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.02)
        assert (await gate.ask("GET", "/"))[0] == 403


async def test_a_log_that_fails_closes_the_gate_and_its_tunnels(tmp_path: Path) -> None:
    async with upstream(echo) as up, running(tmp_path, policy_for(up.port)) as gate:
        reader, writer, _ = await gate.tunnel(f"api.example:{up.port}")
        first = hello("api.example")
        writer.write(first)
        await reader.readexactly(len(first))
        gate.log.failed = True
        status, _, body = await gate.ask("GET", "/simple/")
        assert (status, body["kind"]) == (503, "gate closed")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        before = up.connections
        assert (await gate.ask("CONNECT", f"api.example:{up.port}", host=f"api.example:{up.port}"))[0] == 503
        assert up.connections == before


async def test_a_clock_that_goes_wrong_closes_the_gate(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    log = Log(tmp_path / "l.jsonl", SIGNER, clock=lambda: now[0], steady=lambda: 0.0)
    gate = Gate(Settings(policy=load_policy("test-run")), log, task="t")
    await gate.listen_unix(tmp_path / "s")
    run = Running(gate, log, tmp_path / "s", 0, Resolver())
    assert (await run.ask("GET", "/nothing"))[0] == 404
    now[0] += 7200
    assert (await run.ask("GET", "/nothing"))[0] == 503
    await gate.close()
    log.close()


async def test_no_gate_without_a_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "l.jsonl", SIGNER)
    log.failed = True
    from mirror.gate.core import Denied

    with pytest.raises(Denied):
        Gate(Settings(policy=load_policy("test-run")), log)
    with pytest.raises(LogError):
        log.append({})
    log.close()


async def test_what_happened_is_in_a_log_that_verifies(tmp_path: Path) -> None:
    async with upstream(echo, server_tls(tmp_path, "api.example")) as up:
        async with running(tmp_path, policy_for(up.port)) as gate:
            await through(gate, tmp_path, f"api.example:{up.port}", "api.example")
            for number in range(40):
                await gate.ask("CONNECT", f"h{number}.example:443", host=f"h{number}.example:443")
            note = gate.log.checkpoint()
        events: list[dict[str, object]] = []
        verified = verify(tmp_path / "task.jsonl", SIGNER.verifier, anchor=note, each=events.append)
    assert verified.unsealed == 0
    denied = [event["host"] for event in events if event.get("verdict") == "deny"]
    assert denied == [f"h{number}.example" for number in range(40)]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "stop"
    assert len({event["policy"] for event in events}) == 1


def only(token: str) -> Identify:
    from mirror.gate.tokens import pick

    def identify(head: Head, operation: str) -> Identity:
        found = pick(head.get("proxy-authorization") or head.get("authorization") or "")
        if found != token:
            raise TokenError("no token, or another")
        return Identity("by-token", "k/1")

    return identify


async def test_a_token_is_asked_for_before_anything_else(tmp_path: Path) -> None:
    tree, shelf = make_tree(tmp_path)
    identify = only("sesame")
    async with running(tmp_path, "mirror = true", tree=tree, shelf=shelf, identify=identify) as gate:
        head, _ = await get(gate, "/files/idna.whl")
        assert head.startswith(b"HTTP/1.1 401")
        assert b"WWW-Authenticate: Basic" in head
        head, _ = await get(gate, "http://x.example/")
        assert head.startswith(b"HTTP/1.1 4")
        status, _, _ = await gate.ask("CONNECT", "x.example:443", host="x.example:443")
        assert status == 407
        for header in (
            "Authorization: Bearer sesame", "Authorization: Basic " + base64.b64encode(b"sesame:").decode(),
            "Proxy-Authorization: Bearer sesame",
        ):  # fmt: skip
            assert (await get(gate, "/files/idna.whl", header))[1] == b"0123456789"
        assert {record["task"] for record in gate.records("served")} == {"by-token"}
        assert [record["token"] for record in gate.records("token")] == ["k/1"]
        assert "token" in {record["kind"] for record in gate.records("blocked")}
        assert "sesame" not in gate.log.path.read_text()


async def test_a_denial_says_what_to_ask_for(tmp_path: Path) -> None:
    async with running(tmp_path, "") as gate:
        status, reason, body = await gate.ask("CONNECT", "docs.example:443", host="docs.example:443")
    assert status == 403
    assert reason == "lockstock: docs.example is not in the policy (policy test, rule default)"
    assert body["ask_for"] == '[[allow]]\nhost = "docs.example"\nports = [443]'
    assert set(body) == {"denied", "kind", "policy", "policy_digest", "rule", "ask_for"}
    assert json.dumps(body)


async def test_mutated_requests_only_ever_get_refusals(tmp_path: Path) -> None:
    """A thousand requests with bytes changed, cut out and doubled: none is dialled, none breaks the gate."""
    pick = random.Random(11)
    seeds = [
        b"CONNECT a.denied.example:443 HTTP/1.1\r\nHost: a.denied.example:443\r\n\r\n",
        b"GET http://a.denied.example/x?y HTTP/1.1\r\nHost: a.denied.example\r\nAccept: */*\r\n\r\n",
        b"POST /route/none/v1 HTTP/1.1\r\nHost: gate\r\nContent-Length: 4\r\n\r\nbody",
        b"GET /../simple/%2e%2e/ HTTP/1.1\r\nHost: gate\r\nRange: bytes=0-1\r\n\r\n",
    ]
    broken: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: broken.append(context))
    tree, shelf = make_tree(tmp_path)
    async with running(tmp_path, policy_for(443), tree=tree, shelf=shelf, head_seconds=0.2) as gate:
        for _ in range(1000):
            data = bytearray(pick.choice(seeds))
            for _ in range(pick.randint(1, 4)):
                place = pick.randrange(len(data))
                match pick.randrange(3):
                    case 0:
                        data[place] = pick.randrange(256)
                    case 1:
                        del data[place : place + pick.randint(1, 8)]
                    case _:
                        data[place:place] = data[place : place + pick.randint(1, 8)]
            answer = await gate.send(bytes(data), eof=True)
            assert answer == b"" or answer[9:10] == b"4", (bytes(data), answer)
        assert (await gate.ask("GET", "/files/idna.whl"))[0] == 200
        assert gate.resolver.asked == []
        assert DIALLED == []
    assert broken == []
