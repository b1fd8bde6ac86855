"""Names of upstreams looked up, and no way to private addresses."""

from __future__ import annotations

import ipaddress
import socket

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from mirror.errors import UpstreamError
from mirror.gate.addresses import refusal
from mirror.upstream.settings import UpstreamSettings

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Resolver(aiohttp.ThreadedResolver):
    """Gives only addresses that may be dialled.

    Hosts that the user's own settings name are trusted; an index's page or a redirect may lead to
    a private address only if the upstream is itself private. What was checked is what is dialled,
    so that a name which changes its address between the two gains nothing.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        super().__init__()
        self._named = {host for url in settings.named if (host := _host(url))}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up, and check what it stands for. Raises OSError and UpstreamError."""
        found = await self._look_up(host, port, family)
        await self._check(host, [str(one["host"]) for one in found])
        return found

    async def check_literal(self, host: str) -> None:
        """Check a host that is an address itself, which is not looked up. Raises UpstreamError."""
        if ":" not in host and not host.replace(".", "").isdigit():  # as aiohttp tells them
            return
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError as error:  # the system may read 2130706433 as an address, too
            raise UpstreamError("cannot be fetched: the host is no address", where=host) from error
        await self._check(host, [host])

    async def _check(self, host: str, addresses: list[str]) -> None:
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
        return any(_is_private(str(one["host"])) for one in found)

    async def _look_up(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            return await super().resolve(host, port, family)
        except UnicodeError as error:  # a name may not even be one
            raise OSError(str(error)) from error


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
