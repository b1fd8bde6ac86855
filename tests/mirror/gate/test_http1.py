"""The reader of heads: whatever two programs could read in two ways is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.hello import HelloError, hello_size, server_name
from mirror.gate.http1 import HttpError, end_to_end, parse_answer, parse_head, render_head
from mirror.gate.tree import byte_range
from tests.mirror.gate.harness import hello


def test_a_head() -> None:
    head = parse_head(b"GET /x?y HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nAccept: \t b \r\n\r\n")
    assert (head.method, head.target, head.minor) == ("GET", "/x?y", 1)
    assert head.headers == (("host", "a"), ("x-empty", ""), ("accept", "b"))
    assert head.keeps
    assert not parse_head(b"CONNECT a:443 HTTP/1.0\r\n\r\n").keeps


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer\x00-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding\x0b: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"", 400),
    ],
)
def test_refused_heads(data: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        parse_head(data)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 2000 x\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n", b"200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    ],
)  # fmt: skip
def test_refused_answers(data: bytes) -> None:
    with pytest.raises(HttpError):
        parse_answer(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for whole in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            head = parse_head(whole)
        except HttpError:
            continue
        again = render_head(f"{head.method} {head.target} HTTP/1.{head.minor}", head.headers)
        assert parse_head(again) == head


def test_what_is_of_one_connection_does_not_go_on() -> None:
    headers = (
        ("connection", "close, X-Own, Content-Length"), ("x-own", "1"), ("te", "trailers"), ("accept", "x"),
        ("proxy-authorization", "Basic x"), ("content-length", "5"), ("expect", "100-continue"),
    )  # fmt: skip
    assert end_to_end(headers) == (("accept", "x"), ("content-length", "5"))


def test_a_real_hello_names_its_server() -> None:
    data = hello("api.example")
    assert hello_size(data[:3]) is None
    assert hello_size(data) == len(data)
    assert server_name(data).text == "api.example"


def test_hellos_that_name_none() -> None:
    with pytest.raises(HelloError, match="names no server"):
        server_name(hello(None))
    for first in (b"GET / HTTP/1.1\r\n", b"\x15\x03\x01\x00\x02", b"SSH-2.0-x"):
        with pytest.raises(HelloError):
            hello_size(first)
    for header in (b"\x16\x02\x01\x00\x05", b"\x16\x03\x01\x40\x01", b"\x16\x03\x01\x00\x00"):
        with pytest.raises(HelloError, match="record"):
            hello_size(header)


@pytest.mark.parametrize("code", [b"\xfe\x0d", b"\xfe\x0a", b"\xff\xce"])
def test_an_encrypted_hello_is_refused(code: bytes) -> None:
    """With it the name outside is not the name inside."""
    data = bytearray(hello("api.example"))
    place = data.index(b"\x00\x17\x00\x00")  # extended_master_secret, which is empty
    data[place : place + 2] = code
    with pytest.raises(HelloError, match="encrypted"):
        server_name(bytes(data))


def with_extension(code: int, content: bytes) -> bytes:
    """Give a real ClientHello with one more extension before all others."""
    data = hello("api.example")
    added = code.to_bytes(2) + len(content).to_bytes(2) + content
    at = 5 + 4 + 2 + 32
    for width in (1, 2, 1):
        at += width + int.from_bytes(data[at : at + width])
    size = int.from_bytes(data[at : at + 2]) + len(added)
    body = data[9:at] + size.to_bytes(2) + added + data[at + 2 :]
    message = b"\x01" + len(body).to_bytes(3) + body
    return data[:3] + len(message).to_bytes(2) + message


@pytest.mark.parametrize("code", range(0x0A0A, 0x10000, 0x1010))
def test_grease_is_no_obstacle(code: int) -> None:
    """RFC 8701: clients send extensions that mean nothing, and servers leave them alone."""
    for content in (b"", b"\0"):
        assert server_name(with_extension(code, content)).text == "api.example"


def test_two_names_are_none() -> None:
    name = b"evil.example"
    entry = b"\0" + len(name).to_bytes(2) + name
    with pytest.raises(HelloError, match="two server names"):
        server_name(with_extension(0, len(entry).to_bytes(2) + entry))


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_hello_in_two_records_is_refused(cut: int) -> None:
    """A name that is cut in two is seen by the server and not by whoever looks at one record."""
    data = hello("api.example")
    first = data[5 : 5 + cut]
    record = data[:3] + len(first).to_bytes(2) + first
    with pytest.raises(HelloError, match="length leads out"):
        server_name(record)


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_changed_hello_is_read_or_refused(place: int, change: int) -> None:
    data = bytearray(hello("api.example"))
    data[5 + place % (len(data) - 5)] ^= change
    try:
        server_name(bytes(data))
    except HelloError:
        return


@given(st.binary(max_size=200))
def test_any_bytes_as_a_hello(data: bytes) -> None:
    with pytest.raises(HelloError):
        server_name(b"\x16\x03\x01\x00\x00" + data)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None), ("bytes=0-3", (0, 4)), ("bytes=4-", (4, 10)), ("bytes=-3", (7, 10)),
        ("bytes=0-99", (0, 10)),
        ("bytes=-99", (0, 10)), ("bytes=5-4", None), ("bytes=0-1,3-4", None),
        ("lines=0-1", None), ("bytes=-", None),
        ("bytes=a-b", None),
    ],
)  # fmt: skip
def test_ranges(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert byte_range(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_of_nothing(header: str) -> None:
    with pytest.raises(ValueError, match="no such bytes"):
        byte_range(header, 10)
