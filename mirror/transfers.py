"""Transfers of files into the store, each once, begun as soon as it is known that a file is wanted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from lockfiles.errors import LockstockError
from mirror.errors import UpstreamError
from mirror.plan import Key, Wanted
from mirror.upstream.fetch import Advance

Result = str | LockstockError
"""The sha256 of a file that came, or why it did not."""


class Transfers:
    """Runs `fetch` for each file that is wanted; it bounds itself how many do something at a time."""

    def __init__(self, fetch: Callable[[Wanted, Advance], Awaitable[str]]) -> None:
        self._fetch = fetch
        self._tasks: dict[Key, asyncio.Task[Result]] = {}
        self._early: Counter[Key] = Counter()
        self._advance: Advance | None = None

    def has(self, wanted: Wanted) -> bool:
        """Say whether the transfer of a file was begun, and not asked for yet."""
        return wanted.key in self._tasks

    def begin(self, wanted: Wanted) -> None:
        """Begin with a file that a plan is likely to name."""
        if not self.has(wanted):
            self._tasks[wanted.key] = asyncio.create_task(self._one(wanted))

    async def finish(self, wanted: Sequence[Wanted], advance: Advance) -> dict[Wanted, Result]:
        """Bring all that a plan names, end what it does not name, and say what came of each.

        `advance` is told the bytes, and first of all those that came before.
        """
        for item in wanted:
            self.begin(item)
        tasks, self._tasks = self._tasks, {}
        await _end([tasks.pop(key) for key in tasks.keys() - {item.key for item in wanted}])
        self._advance = advance
        advance(sum(self._early[key] for key in tasks))
        try:
            return {item: await tasks[item.key] for item in wanted}
        finally:
            self._early, self._advance = Counter(), None

    async def _one(self, wanted: Wanted) -> Result:
        try:
            return await self._fetch(wanted, partial(self._count, wanted.key))
        except LockstockError as error:
            return error
        except Exception as error:  # whatever hostile data may cause, it ends one file, not the run
            return UpstreamError(f"cannot be taken: {type(error).__name__}: {error}", where=wanted.label)

    def _count(self, key: Key, size: int) -> None:
        if self._advance:
            self._advance(size)
        else:
            self._early[key] += size


async def _end(tasks: Sequence[asyncio.Task[Result]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
