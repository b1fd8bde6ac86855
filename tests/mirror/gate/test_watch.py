"""What is sent past the gate: how the watch reads packets, and how the gate writes them down."""

from __future__ import annotations

import asyncio
import json
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.gate.reports import OTHERS, blocked
from mirror.gate.watch import WatchError, attempt
from templates.gate import watch
from tests.mirror.gate.harness import Running, running

OWN4, OWN6 = ip_address("192.0.0.8"), ip_address("100:0:0:1::1")
QUERY = b"\x13\x37\x01\x00\x00\x01" + b"\0" * 6 + b"\x04evil\x07example\0\0\1\0\1"


def ipv4(protocol: int, target: str, data: bytes, *, offset: int = 0, options: bytes = b"") -> bytes:
    size = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(data), 1, offset, 64, protocol, 0)
    return head + OWN4.packed + ip_address(target).packed + options + data


def ipv6(protocol: int, target: str, data: bytes) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(data), protocol, 64)
        + OWN6.packed
        + ip_address(target).packed
        + data
    )


def segment(port: int, data: bytes = b"") -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data


@pytest.mark.parametrize(
    ("packet", "told"),
    [
        (ipv4(6, "1.2.3.4", segment(443)), {"protocol": "tcp", "address": "1.2.3.4", "port": 443}),
        (
            ipv4(6, "1.2.3.4", segment(1), options=b"\1" * 8),
            {"protocol": "tcp", "address": "1.2.3.4", "port": 1},
        ),
        (ipv4(17, "8.8.8.8", segment(123)), {"protocol": "udp", "address": "8.8.8.8", "port": 123}),
        (
            ipv4(17, "8.8.8.8", segment(53, QUERY)),
            {"protocol": "udp", "address": "8.8.8.8", "port": 53, "name": "evil.example"},
        ),
        (ipv4(17, "8.8.8.8", segment(53, b"?")), {"protocol": "udp", "address": "8.8.8.8", "port": 53}),
        (ipv4(1, "8.8.8.8", b"\x08\0\0\0"), {"protocol": "icmp", "address": "8.8.8.8"}),
        (ipv4(132, "8.8.8.8", b"\0" * 12), {"protocol": "132", "address": "8.8.8.8"}),
        (ipv6(6, "2606::1", segment(22)), {"protocol": "tcp", "address": "2606::1", "port": 22}),
        (
            ipv6(44, "2606::1", b"\x11\0\0\1\0\0\0\1" + segment(9)),
            {"protocol": "udp", "address": "2606::1", "port": 9},
        ),
        (ipv6(58, "2606::1", b"\x80\0\0\0"), {"protocol": "icmp", "address": "2606::1"}),
    ],
)  # fmt: skip
def test_packets_are_told(packet: bytes, told: dict[str, object]) -> None:
    found = watch.look(packet)
    assert found is not None
    assert found[0] == told


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(17, "8.8.8.8", b"more", offset=100),
        ipv6(44, "2606::1", b"\x11\0\1\0\0\0\0\1more"),
        ipv6(58, "ff02::2", b"\x85\0\0\0"),
        ipv6(58, "ff02::16", b"\x8f\0\0\0"),
    ],
)
def test_what_no_program_sent_is_not_told(packet: bytes) -> None:
    assert watch.look(packet) is None


def test_a_name_is_answered_with_none() -> None:
    found = watch.look(ipv4(17, "192.0.2.53", segment(53, QUERY)))
    assert found is not None
    answer = found[1]
    assert watch._sum(answer[:20]) == 0
    assert (answer[12:16], answer[16:20]) == (ip_address("192.0.2.53").packed, OWN4.packed)
    assert struct.unpack_from("!HH", answer, 20) == (53, 40000)
    assert answer[28:] == QUERY[:2] + b"\x81\x83" + QUERY[4:]


@pytest.mark.parametrize(
    ("packet", "size"), [(ipv4(6, "1.2.3.4", segment(443)), 20), (ipv6(6, "2606::1", segment(443)), 40)]
)
def test_all_else_is_refused_by_icmp(packet: bytes, size: int) -> None:
    found = watch.look(packet)
    assert found is not None
    answer = found[1]
    pseudo = b""
    if size == 40:
        pseudo = answer[8:40] + struct.pack("!II", len(answer) - size, 58)
    assert watch._sum(pseudo + answer[size:]) == 0
    assert answer[size : size + 2] == (b"\x03\x0d" if size == 20 else b"\x01\x01")
    assert answer[size + 8 :] == packet


@given(st.binary(max_size=80))
def test_any_bytes_are_told_or_no_packet(packet: bytes) -> None:
    try:
        found = watch.look(packet)
    except (ValueError, IndexError, struct.error):
        return
    if found is not None:
        assert attempt(json.loads(json.dumps(found[0])))["kind"]


@given(st.dictionaries(st.sampled_from(["protocol", "address", "port", "name"]), st.integers() | st.text()))
def test_the_gate_trusts_nothing_of_a_line(told: dict[str, Any]) -> None:
    try:
        fields = attempt(told)
    except ValueError:
        return
    assert fields["kind"]
    assert all(isinstance(value, int) or value.isprintable() for value in fields.values())


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "raw address"),
        ("10.0.0.1", "private address"),
        ("169.254.169.254", "metadata service"),
        ("fd00:ec2::254", "metadata service"),
        ("255.255.255.255", "private address"),
    ],
)
def test_attempts_are_classed_by_where_they_lead(address: str, kind: str) -> None:
    fields = attempt({"protocol": "tcp", "address": address, "port": 80})
    assert (fields["kind"], fields["host"], fields["port"]) == (kind, address, 80)


@pytest.mark.parametrize(
    "told", [{}, {"protocol": "TCP\n"}, {"protocol": "tcp", "address": "1.2.3.4", "port": True}]
)
def test_lines_that_no_watch_writes(told: dict[str, Any]) -> None:
    with pytest.raises(WatchError):
        attempt(told)


async def tell(gate: Running, place: Path, *lines: bytes) -> None:
    await gate.gate.watch.listen(place)
    _, writer = await asyncio.open_unix_connection(place)
    writer.write(b"".join(lines))
    writer.write_eof()
    await asyncio.wait_for(gate.gate.watch.ended.wait(), 5)
    writer.close()


@pytest.mark.anyio
async def test_what_a_watch_tells_stands_in_the_log(tmp_path: Path) -> None:
    lines = [b'{"ready": true}\n', b'{"protocol": "unknown"}\n']
    lines += [b'{"protocol": "tcp", "address": "8.8.8.8", "port": 443}\n'] * 500
    lines += [b'{"protocol": "udp", "address": "192.0.2.53", "port": 53, "name": "evil.example"}\n']
    lines += [b'{"unread": 7}\n']
    async with running(tmp_path, "") as gate:
        await tell(gate, tmp_path / "w", *lines)
        assert len(gate.records()) < 20
        assert [record["state"] for record in gate.records("watch")] == ["on", "off"]
    found = {one.target: one.times for one in blocked(gate.records())}
    assert found == {"tcp 8.8.8.8:443": 500, "evil.example": 1, "unknown": 1, OTHERS: 7}


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"{}\n", b"no JSON\n", b"[" * 4000, b"x" * 9000, b""])
async def test_a_watch_that_goes_or_is_none_is_lost(tmp_path: Path, line: bytes) -> None:
    async with running(tmp_path, "") as gate:
        await tell(gate, tmp_path / "w", b'{"ready": true}\n', line)
        assert [record["state"] for record in gate.records("watch")] == ["on", "lost"]


@pytest.mark.anyio
async def test_a_gate_that_ends_first_says_that_the_watch_was_lost(tmp_path: Path) -> None:
    async with running(tmp_path, "") as gate:
        await gate.gate.watch.listen(tmp_path / "w")
        _, writer = await asyncio.open_unix_connection(tmp_path / "w")
        writer.write(b'{"ready": true}\n')
        await asyncio.wait_for(gate.gate.watch.begun.wait(), 5)
        assert gate.gate.watch.on
    writer.close()
    assert [record["event"] for record in gate.records()] == ["start", "watch", "watch", "stop"]
