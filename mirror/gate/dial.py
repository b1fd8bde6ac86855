"""Looks an allowed name up once, refuses what leads inside, and dials what was checked and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from mirror.gate.addresses import Address, Refusal, refusal
from mirror.gate.hosts import Name, canonical

Resolver = Callable[[str], Awaitable[tuple[str, ...]]]
_SECONDS = 10.0
_ADDRESSES = 4


class DialError(Exception):
    """A name has no address, or none that answers."""


class OwnAddressError(DialError):
    """A name leads to this host itself, where ports may be open that are not for everyone."""


async def system_resolver(name: str) -> tuple[str, ...]:
    """Ask the host's resolver for the name as it is. Raises DialError.

    With the root's dot: without it a resolver may go on to the name below one of its search domains,
    which is another host.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DialError(f"the name has no address: {error.strerror}") from error
    return tuple(dict.fromkeys(str(item[4][0]) for item in found))


async def look_up(name: Name, resolver: Resolver) -> tuple[Address, ...]:
    """Give the addresses of a name, at least one. Raises DialError."""
    try:
        async with asyncio.timeout(_SECONDS):
            found = await resolver(name.text)
        addresses = tuple(canonical(ip_address(text.partition("%")[0])) for text in found)
    except TimeoutError as error:
        raise DialError("the look-up took too long") from error
    except ValueError as error:
        raise DialError("the look-up gave something that is no address") from error
    if not addresses:
        raise DialError("the name has no address")
    return addresses


def first_refusal(addresses: tuple[Address, ...]) -> Refusal | None:
    """Say which of the addresses may not be dialled; one of them is enough to refuse the name."""
    return next((found for address in addresses if (found := refusal(address))), None)


async def dial(addresses: tuple[Address, ...], port: int, *, own: bool) -> socket.socket:
    """Connect to the first of these addresses that answers; to this host only if `own`. Raises DialError."""
    reason = "no address"
    for address in addresses[:_ADDRESSES]:
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        upstream = socket.socket(family, socket.SOCK_STREAM)
        upstream.setblocking(False)
        try:
            async with asyncio.timeout(_SECONDS):
                await asyncio.get_running_loop().sock_connect(upstream, (str(address), port))
        except (OSError, TimeoutError) as error:
            upstream.close()
            reason = getattr(error, "strerror", None) or "it took too long"
        except BaseException:
            upstream.close()
            raise
        else:
            if not own and upstream.getsockname()[0] == upstream.getpeername()[0]:
                upstream.close()
                raise OwnAddressError(f"{address} is this host itself")
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return upstream
    raise DialError(f"no connection: {reason}")
