"""Brings locks into the store: locate, select, plan, fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from lockfiles.errors import LockError, LockstockError
from lockfiles.model import Lock, Package
from lockfiles.select import Selection, applies, select
from lockfiles.target import Target
from mirror.config import Config
from mirror.layout import Layout
from mirror.plan import Key, Plan, Wanted, make_plan
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from mirror.store import Expected
from mirror.upstream.fetch import Advance, fetch
from mirror.upstream.locate import LocatedFiles, is_located, locate
from mirror.upstream.session import Upstream, connect
from mirror.upstream.settings import redact

Begin = Callable[[Plan], Advance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A lock to stock, as the snapshot records it, for some targets."""

    record: LockRecord
    lock: Lock
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What was stocked for some orders."""

    plan: Plan
    artifacts: tuple[Stocked, ...]
    selections: tuple[Selected, ...]
    fetched_size: int


class Stockist:
    """Works through orders with one connection, which opens when the first question is asked."""

    def __init__(
        self, config: Config, layout: Layout, previous: Snapshot | None, stack: AsyncExitStack
    ) -> None:
        self._config = config
        self._store = layout.store
        self._known = LocatedFiles(layout.located)
        self._held_names = {a.filename: a.sha256 for a in previous.artifacts} if previous else {}
        self._stack = stack
        self._connection: Upstream | None = None

    async def plan(self, orders: Iterable[Order]) -> tuple[Plan, list[tuple[Order, Selection]]]:
        """Locate and select. Raises NoMatchingArtifactError and what the upstreams' errors are."""
        selections = []
        for order in orders:
            located = await self._located(order)
            selections += [(order, select(located, target)) for target in order.targets]
        return make_plan((selection for _, selection in selections), self._held), selections

    async def stock(self, orders: Iterable[Order], begin: Begin) -> Shelf:
        """Fetch what is missing; `begin` is told the plan and gives what counts the bytes."""
        plan, selections = await self.plan(orders)
        fetched = await self._fetch_all(plan.fetch, begin(plan)) if plan.fetch else {}
        digests = {wanted.key: sha256 for wanted, sha256 in (*plan.keep, *fetched.items())}
        stocked = {key: self._stocked(wanted, digests[key]) for wanted in _all(plan) for key in [wanted.key]}
        return Shelf(
            plan=plan,
            artifacts=tuple(stocked.values()),
            selections=tuple(_selected(order, selection, digests) for order, selection in selections),
            fetched_size=sum(stocked[wanted.key].size for wanted in fetched),
        )

    async def _located(self, order: Order) -> Lock:
        """Find the files of the packages that any target takes."""
        needed = [p for p in order.lock.packages if any(applies(p, target) for target in order.targets)]
        found: dict[int, Package] = {}
        for index, package in enumerate(needed):
            files = None if is_located(package) else self._known.get(package)
            if is_located(package) or files:
                found[index] = package if files is None else replace(package, artifacts=files)
        missing = [index for index in range(len(needed)) if index not in found]
        if missing:
            answers = await locate((needed[i] for i in missing), await self._upstream(), self._known)
            found.update(zip(missing, answers, strict=True))
        return replace(order.lock, packages=tuple(found[index] for index in range(len(needed))))

    def _held(self, wanted: Wanted) -> str | None:
        """Give the sha256 of a held file; an index without digests leaves only the name to go by."""
        if wanted.artifact.digests:
            return self._store.find(wanted.artifact.digests)
        sha256 = self._held_names.get(wanted.artifact.filename)
        allowed = {digest.value for digest in wanted.package.digests}
        return sha256 if sha256 in allowed and self._store.holds(sha256) else None

    async def _fetch_all(self, wanted: Iterable[Wanted], advance: Advance) -> dict[Wanted, str]:
        """Fetch with bounded concurrency. Raises the first error by file name, when all have ended."""
        upstream = await self._upstream()

        async def one(item: Wanted) -> str | LockstockError:
            async with upstream.gate:
                try:
                    return await self._fetch(upstream, item, advance)
                except LockstockError as error:
                    return error

        items = list(wanted)
        results = dict(zip(items, await asyncio.gather(*map(one, items)), strict=True))
        failed = {item.label: error for item, error in results.items() if isinstance(error, LockstockError)}
        if failed:
            raise failed[min(failed)]
        return {item: result for item, result in results.items() if isinstance(result, str)}

    async def _fetch(self, upstream: Upstream, item: Wanted, advance: Advance) -> str:
        artifact = item.artifact
        if artifact.url is None:
            raise LockError("the lock names no place to fetch it from", where=item.label)
        expected = Expected(
            label=item.label,
            digests=artifact.digests,
            any_of=item.package.digests,
            size=artifact.size,
            limit=upstream.max_file_size,
        )
        return await fetch(upstream.client, artifact.url, self._store, expected, upstream.retries, advance)

    async def _upstream(self) -> Upstream:
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(connect(self._config))
        return self._connection

    def _stocked(self, wanted: Wanted, sha256: str) -> Stocked:
        return Stocked(
            ecosystem=wanted.package.ecosystem,
            name=wanted.package.name,
            version=wanted.package.version or "",
            filename=wanted.artifact.filename,
            sha256=sha256,
            size=self._store.path(sha256).stat().st_size,
            url=redact(wanted.artifact.url or ""),
            requires_python=wanted.artifact.requires_python,
        )


def _all(plan: Plan) -> Iterable[Wanted]:
    return (*plan.fetch, *(wanted for wanted, _ in plan.keep))


def _selected(order: Order, selection: Selection, digests: Mapping[Key, str]) -> Selected:
    files = (Wanted(package=c.package, artifact=c.artifact).key for c in selection.choices)
    return Selected(
        lock=order.record.name,
        target=str(selection.target),
        artifacts=tuple(sorted({digests[key] for key in files})),
    )
