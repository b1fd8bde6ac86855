"""How many requests there are at a time, and which of those that wait goes first."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from urllib.parse import urlsplit


class Bounds:
    """Bounds the requests of a run at a time: all of them, and those to each host."""

    def __init__(self, total: int, per_host: int) -> None:
        self.per_host = per_host
        self._total = _Turns(total)
        self._hosts = defaultdict[str, _Turns](partial(_Turns, per_host))

    @asynccontextmanager
    async def turn(self, url: str, weight: float = math.inf) -> AsyncIterator[None]:
        """Wait until a request may begin; the weightiest goes first: no large file is left for the end.

        Who waits for a slow host takes no turn of the others.
        """
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        async with self._hosts[host].taken(weight), self._total.taken(weight):
            yield


class _Turns:
    """A semaphore that lets in the weightiest of those that wait."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    @asynccontextmanager
    async def taken(self, weight: float) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            await self._wait(weight)
        try:
            yield
        finally:
            self._give()

    async def _wait(self, weight: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (-weight, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came at the same moment
                self._give()
            raise

    def _give(self) -> None:
        """Hand a turn to one that waits and still wants it; what was cancelled may not know it yet."""
        while self._waiting:
            turn = heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
