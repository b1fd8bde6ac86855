"""Proves that nothing outside this machine's own loopback can be reached.

Arguments are addresses that must not answer. Prints what was tried, one line each, and ends with
1 if anything could be reached or a route there exists.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

_PORTS = (53, 80, 443)
_SECONDS = 1.0
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM)
# A query for the root's name servers: any resolver has some answer to it.
_QUERY = b"\x13\x37\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"

Finding = tuple[bool, str]


def interfaces(names: list[str]) -> Finding:
    """Only the loopback interface may be there."""
    return set(names) <= {"lo"}, f"interfaces: {', '.join(names) or 'none'}"


def routes(ipv4: str, ipv6: str) -> Finding:
    """No route may leave by another interface; the texts are those of /proc/net."""
    devices = {line.split()[0] for line in ipv4.splitlines()[1:]}
    devices |= {line.split()[-1] for line in ipv6.splitlines()}
    outward = sorted(devices - {"lo"})
    return not outward, f"routes outward: {', '.join(outward) or 'none'}"


def connection(address: str, port: int) -> Finding:
    """Try a TCP connection, which must fail for want of a route: a refusal means that someone is there."""
    try:
        with socket.create_connection((address, port), _SECONDS):
            return False, f"tcp {address}:{port}: connected"
    except OSError as error:
        return error.errno in _NO_ROUTE, f"tcp {address}:{port}: {error.strerror or 'no answer, but a route'}"


def resolver(address: str) -> Finding:
    """Try a name server, which may not answer, nor may a route to it exist."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as query:
            query.settimeout(_SECONDS)
            query.connect((address, 53))
            query.send(_QUERY)
            query.recv(512)
    except OSError as error:
        inside = address.startswith("127.") or address == "::1"
        return inside or error.errno in _NO_ROUTE, f"dns {address}: {error.strerror or 'no answer'}"
    return False, f"dns {address}: answered"


def nameservers(text: str) -> list[str]:
    """Give the addresses in a resolv.conf."""
    lines = (line.split() for line in text.splitlines())
    return [words[1].partition("%")[0] for words in lines if words[:1] == ["nameserver"] and len(words) > 1]


def findings(addresses: list[str]) -> Iterator[Finding]:
    """Try everything."""
    yield interfaces([name for _, name in socket.if_nameindex()])
    yield routes(_read("/proc/net/route"), _read("/proc/net/ipv6_route"))
    for address in dict.fromkeys([*nameservers(_read("/etc/resolv.conf")), *addresses]):
        yield resolver(address)
    for address in addresses:
        for port in _PORTS:
            yield connection(address, port)


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def main() -> None:
    """Try everything and report."""
    results = list(findings(sys.argv[1:]))
    for isolated, text in results:
        print(f"{'closed' if isolated else 'OPEN'}  {text}")
    sys.exit(0 if all(isolated for isolated, _ in results) else 1)


if __name__ == "__main__":
    main()
