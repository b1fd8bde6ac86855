"""Names of upstreams looked up, and no way to private addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from yarl import URL

from mirror.errors import UpstreamError
from mirror.gate.addresses import refusal
from mirror.upstream.failures import UnreachableError
from mirror.upstream.settings import UpstreamSettings

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Resolver:
    """Gives only addresses that may be dialled.

    Hosts that the user's own settings name are trusted; an index's page or a redirect may lead to
    a private address only if the upstream is itself private. What was checked is what is dialled,
    so that a name which changes its address between the two gains nothing.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self._named = {host for url in settings.named if (host := _host(url))}
        self._found: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Look a name up, once, and check what it stands for; an address stands for itself.

        Raises UpstreamError and UnreachableError.
        """
        if ":" in host or host.replace(".", "").isdigit():
            literal = _literal(host)
            await self._check(host, (literal,))
            return (literal,)
        try:
            found = await self._look_up(host)
        except OSError as error:
            reason = f"cannot be reached: {error.strerror or error}"
            raise UnreachableError(reason, where=host, hint="check the name and the network") from error
        await self._check(host, found)
        return found

    async def _check(self, host: str, addresses: tuple[str, ...]) -> None:
        if host in self._named or not any(map(_is_private, addresses)):
            return
        for name in sorted(self._named):
            if await self._is_inside(name):
                return
        raise UpstreamError("a public index sends us to a private address", where=host, hint="not followed")

    async def _is_inside(self, name: str) -> bool:
        try:
            found = await self._look_up(name)
        except OSError:  # a proxy may know it
            return False
        return any(map(_is_private, found))

    async def _look_up(self, host: str) -> tuple[str, ...]:
        """Give the addresses of a name. Raises OSError."""
        if host not in self._found:
            self._found[host] = asyncio.create_task(_resolved(host))
        try:
            return await asyncio.shield(self._found[host])
        except OSError:
            self._found.pop(host, None)  # the next try may find it
            raise


async def _resolved(host: str) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a name may not even be one
        raise OSError(str(error)) from error
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _literal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError as error:  # the system may read 2130706433 as an address, too
        raise UpstreamError("cannot be fetched: the host is no address", where=host) from error


def _is_private(address: str) -> bool:
    """Say whether an address is not one on the public internet, as the gate does."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found in _NAT64:  # how networks without IPv4 reach all of it
        found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return refusal(found) is not None


def _host(url: str) -> str | None:
    try:
        return URL(url).raw_host
    except ValueError:
        return None
