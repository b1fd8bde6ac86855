"""Runs in a sandbox's empty network, beside it: the end of its only route, which leads nowhere.

    python3 -I -S watch.py SOCKET

Each packet that would have left is told to the gate's socket as a line of JSON, and refused at once.
Nothing is ever sent on. Standard library only, from Python 3.8 on.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import BinaryIO

DEVICE = b"watch"
_IFF_TUN_NO_INFO, _TUNSETIFF = 0x1001, 0x400454CA
_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_REQUEST_ACK, _CREATE = 0x5, 0x600
_NO_DAD = 2
_MAIN, _STATIC, _UNICAST = 254, 4, 1
# The dummy address of RFC 7600 and the dummy prefix of RFC 9780: whom the sandbox sends as.
_OWN = (("192.0.0.8", 32), ("100:0:0:1::1", 128))
_ICMP, _TCP, _UDP, _FRAGMENT, _ICMPV6 = 1, 6, 17, 44, 58
_LATER = -1
_PROTOCOLS = {_ICMP: "icmp", 2: "igmp", _TCP: "tcp", _UDP: "udp", _ICMPV6: "icmp"}
_ECHO_REQUEST_V6 = 128
_DNS, _NO_SUCH_NAME = 53, 0x8183
_NAME_LIMIT = 253
_MTU = 65535


def tunnel() -> int:
    """Make the device; needs /dev/net/tun and CAP_NET_ADMIN over this network."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE, _IFF_TUN_NO_INFO))
    index = socket.if_nametoindex(DEVICE.decode())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        _ask(link, _NEWLINK, 0, struct.pack("=BxHiII", 0, 0, index, 1, 1))
        _lead_here(link, index, *_OWN[0])
        with contextlib.suppress(OSError):  # a kernel without IPv6 needs no route for it
            _lead_here(link, index, *_OWN[1])
    return device


def _lead_here(link: socket.socket, index: int, address: str, bits: int) -> None:
    """Give the device an address, and make it the way to all others."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, bits, _NO_DAD, 0, index) + _attribute(2, packed)
    _ask(link, _NEWADDR, _CREATE, body + _attribute(1, packed))
    route = struct.pack("=BBBBBBBBI", family, 0, 0, 0, _MAIN, _STATIC, 0, _UNICAST, 0)
    _ask(link, _NEWROUTE, _CREATE, route + _attribute(4, struct.pack("=I", index)))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _ask(link: socket.socket, kind: int, flags: int, body: bytes) -> None:
    """Ask the kernel by rtnetlink(7). Raises OSError."""
    link.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 0, 0) + body)
    code = struct.unpack_from("=i", link.recv(4096), 16)[0]
    if code:
        raise OSError(-code, os.strerror(-code))


def look(packet: bytes) -> tuple[dict[str, object], bytes] | None:
    """Give what a packet attempts and the answer that ends it; None for what no program sent.

    Raises ValueError, IndexError or struct.error for what is no packet.
    """
    version = packet[0] >> 4
    protocol, source, target, data = (_parts4 if version == 4 else _parts6)(packet)
    if protocol == _LATER or (protocol == _ICMPV6 and data[0] != _ECHO_REQUEST_V6):
        return None  # its first fragment was told; the kernel itself looks for neighbours and routers
    told: dict[str, object] = {
        "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        "address": str(ipaddress.ip_address(target)),
    }
    if protocol in (_TCP, _UDP):
        told["port"] = struct.unpack_from("!H", data, 2)[0]
    question = _question(data[8:]) if protocol == _UDP and told["port"] == _DNS else ""
    if question:
        told["name"] = question
    if question and version == 4:
        return told, _no_such_name(source, target, data)
    return told, _prohibited(version, source, target, packet)


def _parts4(packet: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Give protocol, source, target and what is carried (RFC 791)."""
    later = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
    protocol = _LATER if later else packet[9]
    return protocol, packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 :]


def _parts6(packet: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Give protocol, source, target and what is carried (RFC 8200)."""
    protocol, data = packet[6], packet[40:]
    if protocol == _FRAGMENT:
        later = struct.unpack_from("!H", data, 2)[0] & 0xFFF8
        protocol, data = _LATER if later else data[0], data[8:]
    return protocol, packet[8:24], packet[24:40], data


def _question(query: bytes) -> str:
    """Give the name that a DNS query asks for, or nothing where it asks for none."""
    labels, at = [], 12
    while at < len(query) and 0 < query[at] < 64:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    name = b".".join(labels)[:_NAME_LIMIT]
    return "".join(chr(byte) if 0x20 < byte < 0x7F else "?" for byte in name)


def _no_such_name(source: bytes, target: bytes, data: bytes) -> bytes:
    """Answer a query over IPv4, so that every client gives up at once."""
    query = data[8:]
    answer = query[:2] + struct.pack("!H", _NO_SUCH_NAME) + query[4:]
    ports = struct.unpack_from("!HH", data)
    segment = struct.pack("!HHHH", ports[1], ports[0], 8 + len(answer), 0) + answer
    return _ipv4(_UDP, target, source, segment)


def _prohibited(version: int, source: bytes, target: bytes, packet: bytes) -> bytes:
    """Say by ICMP that this is not allowed (RFC 1812, 5.2.7.1 and RFC 4443, 3.1)."""
    if version == 4:
        body = struct.pack("!BBHI", 3, 13, 0, 0) + packet[:548]
        return _ipv4(_ICMP, target, source, _with_sum(body, b""))
    body = struct.pack("!BBHI", 1, 1, 0, 0) + packet[:1192]
    pseudo = target + source + struct.pack("!II", len(body), _ICMPV6)
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 64) + target + source
    return header + _with_sum(body, pseudo)


def _ipv4(protocol: int, source: bytes, target: bytes, body: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target)
    checked = struct.pack("!H", _sum(header))
    return header[:10] + checked + header[12:] + body


def _with_sum(body: bytes, pseudo: bytes) -> bytes:
    return body[:2] + struct.pack("!H", _sum(pseudo + body)) + body[4:]


def _sum(data: bytes) -> int:
    """Give the internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def unread() -> int:
    """Give the packets that came faster than they could be read, and were dropped by the kernel."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == DEVICE.decode():
            return int(counts.split()[11])
    return 0


def main(place: str) -> None:
    """Watch until SIGTERM; what was sent before that is told before the end."""
    ended, wake = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(wake, b"."))
    with socket.socket(socket.AF_UNIX) as gate, gate.makefile("wb") as out:
        gate.connect(place)
        device = tunnel()
        _tell(out, {"ready": True})
        while (ready := select.select([device, ended, gate.fileno()], [], [])[0]) != [ended]:
            if gate.fileno() in ready:
                return  # the gate is gone, and with this program the route
            _read(device, out)
        _tell(out, {"unread": unread()})


def _read(device: int, out: BinaryIO) -> None:
    try:
        packet = os.read(device, _MTU)
    except BlockingIOError:
        return
    try:
        found = look(packet)
    except (ValueError, IndexError, struct.error):
        found = {"protocol": "unknown"}, b""
    if found is None:
        return
    told, answer = found
    _tell(out, told)
    if answer:
        with contextlib.suppress(OSError):  # the sandbox is told by its own time-out, then
            os.write(device, answer)


def _tell(out: BinaryIO, told: dict[str, object]) -> None:
    out.write(json.dumps(told).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
