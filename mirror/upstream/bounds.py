"""How many requests there are at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit


class Bounds:
    """Bounds the requests of a run at a time: all of them, and those to each host."""

    def __init__(self, total: int, per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._hosts = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, per_host))

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Wait until a request may begin. Who waits for a slow host takes no turn of the others."""
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        async with self._hosts[host], self._total:
            yield
