"""Brings locks into the store: locate, select, plan, fetch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lockfiles.closure import required
from lockfiles.errors import LockError, LockstockError
from lockfiles.model import Digest, Ecosystem, GitSource, Lock, Package, PathSource
from lockfiles.select import Sdists, Selection, choose, select
from lockfiles.target import Target
from mirror.config import Config
from mirror.errors import NotFoundUpstreamError, UpstreamError
from mirror.gitsource import archive_name, stock_commit
from mirror.layout import Layout
from mirror.plan import Key, Plan, Wanted, make_plan
from mirror.publish.metadata import read as read_metadata
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from mirror.store import Expected
from mirror.transfers import Result, Transfers
from mirror.upstream.answers import LocatedFiles
from mirror.upstream.clients import CLIENTS
from mirror.upstream.fetch import Advance, fetch
from mirror.upstream.locate import locate
from mirror.upstream.session import Upstream, bounds_of, connect
from mirror.upstream.settings import without_secrets

Begin = Callable[[Plan], Advance]
Found = Callable[["Order", Package, Collection[Target]], None]
"""Is told the files of a package as they are found, and the targets that take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A lock to stock, as the snapshot records it, for some targets, with what is chosen of it."""

    record: LockRecord
    lock: Lock
    targets: tuple[Target, ...]
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    sdists: Sdists = field(default_factory=Sdists)
    allow_sha1: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is to do for some orders; `failed` are the locks that cannot be met, by name."""

    plan: Plan
    selections: tuple[tuple[Order, Selection], ...]
    failed: dict[str, LockstockError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What was stocked for some orders, and what was fetched for it (bytes)."""

    artifacts: tuple[Stocked, ...]
    selections: tuple[Selected, ...]
    fetched: int
    fetched_size: int
    failed: dict[str, LockstockError]


class Stockist:
    """Works through orders with a connection for each ecosystem, opened with the first question."""

    def __init__(
        self, config: Config, layout: Layout, previous: Snapshot | None, stack: AsyncExitStack
    ) -> None:
        self._config = config
        self._store = layout.store
        self._known = LocatedFiles(layout.located, config.upstreams)
        self._clones = layout.git
        self._held_names = {a.filename: a for a in previous.artifacts} if previous else {}
        self._stack = stack
        self._connections: dict[Ecosystem, Upstream] = {}
        self._bounds = bounds_of(config)
        self._transfers = Transfers(self._fetch)

    async def plan(self, orders: Iterable[Order], found: Found = lambda *_: None) -> Planned:
        """Locate and select; an order that cannot be met fails alone."""
        selections: list[tuple[Order, Selection]] = []
        failed: dict[str, LockstockError] = {}
        for order in orders:
            try:
                selections += await self.selections(order, found)
            except LockstockError as error:
                failed[order.record.name] = error
            except Exception as error:  # whatever a hostile lock or index may cause, it ends one lock only
                reason = f"cannot be met: {type(error).__name__}: {error}"
                hint = "lock again; where the lock-file is as its tool wrote it, please report this as a bug"
                failed[order.record.name] = LockError(reason, where=order.record.path, hint=hint)
        plan = make_plan((selection for _, selection in selections), self._held)
        return Planned(plan=plan, selections=tuple(selections), failed=failed)

    async def stock(self, orders: Iterable[Order], begin: Begin) -> Shelf:
        """Fetch what is missing; `begin` is told the plan and gives what counts the bytes."""
        orders = tuple(orders)
        planned, results = await self._attempt(orders, begin)
        if self._forgotten(results):
            planned, again = await self._attempt(orders, begin)
            results = {**{item: r for item, r in results.items() if isinstance(r, str)}, **again}
        plan = planned.plan
        fetched = {wanted: result for wanted, result in results.items() if isinstance(result, str)}
        errors = {wanted.key: r for wanted, r in results.items() if isinstance(r, LockstockError)}
        digests = {wanted.key: sha256 for wanted, sha256 in (*plan.keep, *fetched.items())}
        held = [*(wanted for wanted, _ in plan.keep), *fetched]
        stocked = {wanted.key: self._stocked(wanted, digests[wanted.key]) for wanted in held}
        archives, unarchived = await self._archives(planned.selections)
        failed = {**planned.failed, **_hit(planned.selections, errors), **unarchived}
        met = [each for each in planned.selections if each[0].record.name not in failed]
        return Shelf(
            artifacts=(*stocked.values(), *archives.values()),
            selections=tuple(_selected(order, selection, digests, archives) for order, selection in met),
            fetched=len(fetched),
            fetched_size=sum(stocked[wanted.key].size for wanted in fetched),
            failed=failed,
        )

    async def _attempt(self, orders: Iterable[Order], begin: Begin) -> tuple[Planned, dict[Wanted, Result]]:
        """Plan, and fetch what is missing; what is known of it early is fetched while the rest is located."""
        planned = await self.plan(orders, self._begin_early)
        plan = planned.plan
        for ecosystem in sorted({item.package.ecosystem for item in plan.fetch}):
            await self._upstream(ecosystem)
        advance = begin(plan) if plan.fetch else lambda _: None
        return planned, await self._transfers.finish(plan.fetch, advance)

    def forget_unused(self) -> None:
        """Drop what indexes said of packages that no lock names any more. All locks have been met."""
        self._known.compact()

    def _begin_early(self, order: Order, package: Package, targets: Collection[Target]) -> None:
        """Begin with what these targets take of a package; what is wrong with it, selecting will tell."""
        for target in targets:
            with suppress(LockstockError):
                artifact = choose(order.lock, package, target, order.sdists, order.allow_sha1)
                wanted = Wanted(package=package, artifact=artifact)
                if self._held(wanted) is None:
                    self._transfers.begin(wanted)

    def _forgotten(self, results: Mapping[Wanted, Result]) -> bool:
        """Drop the remembered places that files did not come from; say whether there were any."""
        kinds = (UpstreamError, NotFoundUpstreamError)
        forgotten = [
            self._known.forget(i.package) for i, result in results.items() if isinstance(result, kinds)
        ]
        return any(forgotten)

    async def _archives(
        self, selections: Iterable[tuple[Order, Selection]]
    ) -> tuple[dict[tuple[object, ...], Stocked], dict[str, LockstockError]]:
        """Stock what comes from git, by package, and name the locks that it fails."""
        found: dict[tuple[object, ...], Stocked] = {}
        failed: dict[str, LockstockError] = {}
        for order, selection in selections:
            for package in selection.sources:
                if not isinstance(source := package.source, GitSource) or package.key in found:
                    continue
                held = self._held_names.get(archive_name(package, source))
                try:
                    found[package.key] = await asyncio.to_thread(
                        stock_commit,
                        self._clones,
                        self._store,
                        package,
                        source,
                        held,
                        self._config.max_file_size,
                    )
                except LockstockError as error:
                    failed.setdefault(order.record.name, error)
        return found, failed

    async def selections(self, order: Order, found: Found = lambda *_: None) -> list[tuple[Order, Selection]]:
        """Locate an order's files and choose for each of its targets. Raises LockstockError."""
        located = await self._located(order, found)
        return [
            (order, select(located, target, order.extras, order.groups, order.sdists, order.allow_sha1))
            for target in order.targets
        ]

    async def _located(self, order: Order, found: Found) -> Lock:
        """Find the files of the packages that any target takes."""
        needed = _needed(order)

        def tell(package: Package) -> None:
            found(order, package, needed[package.key])

        packages = list(order.lock.packages)
        missing: dict[Ecosystem, list[int]] = {}
        for index, package in enumerate(packages):
            client = CLIENTS[package.ecosystem]
            if package.key not in needed or client.is_located(package, self._config.upstreams):
                continue
            if (files := self._known.get(package)) is not None:
                packages[index] = replace(package, artifacts=files)
            else:
                missing.setdefault(package.ecosystem, []).append(index)
        for ecosystem, places in missing.items():
            upstream, ask = await self._upstream(ecosystem), CLIENTS[ecosystem].files_of
            answers = await locate([packages[i] for i in places], upstream, self._known, ask, tell)
            for index, answer in zip(places, answers, strict=True):
                packages[index] = answer
        return replace(order.lock, packages=tuple(packages))

    def _held(self, wanted: Wanted) -> str | None:
        """Give the sha256 of a held file; an index without digests leaves only the name to go by."""
        if self._transfers.has(wanted):
            return None
        digests = wanted.artifact.digests
        if _are_strong(digests):
            return self._store.find(digests)
        known = self._held_names.get(wanted.artifact.filename)
        if digests:
            is_it = known and self._store.holds(known.sha256) and self._store.matches(known.sha256, digests)
            return known.sha256 if known and is_it else None
        allowed = {digest.value for digest in wanted.package.digests}
        return known.sha256 if known and known.sha256 in allowed and self._store.holds(known.sha256) else None

    async def _fetch(self, item: Wanted, advance: Advance) -> str:
        artifact, upstream = item.artifact, self._connections[item.package.ecosystem]
        if artifact.url is None:
            raise LockError("the lock names no place to fetch it from", where=item.label)
        expected = Expected(
            label=item.label,
            digests=artifact.digests,
            any_of=item.package.digests,
            size=artifact.size,
            limit=upstream.max_file_size,
            # What was selected by a weak digest was allowed to be.
            allow_weak=not _are_strong((*artifact.digests, *item.package.digests)),
        )
        async with upstream.bounds.turn(artifact.url, artifact.size or 0):
            return await fetch(
                upstream.client,
                artifact.url,
                self._store,
                expected,
                upstream.retries,
                advance,
                _inspection(item.package),
            )

    async def _upstream(self, ecosystem: Ecosystem) -> Upstream:
        if ecosystem not in self._connections:
            settings = CLIENTS[ecosystem].settings(self._config.upstreams)
            self._connections[ecosystem] = await self._stack.enter_async_context(
                connect(self._config, settings, self._bounds)
            )
        return self._connections[ecosystem]

    def _stocked(self, wanted: Wanted, sha256: str) -> Stocked:
        return Stocked(
            ecosystem=wanted.package.ecosystem,
            name=wanted.package.name,
            version=wanted.package.version or "",
            filename=wanted.artifact.filename,
            sha256=sha256,
            size=self._store.path(sha256).stat().st_size,
            url=without_secrets(wanted.artifact.url or ""),
            requires_python=wanted.artifact.requires_python or self._requires_python(wanted, sha256),
            yanked=wanted.artifact.yanked,
            upload_time=wanted.artifact.upload_time,
        )

    def _requires_python(self, wanted: Wanted, sha256: str) -> str | None:
        """Ask the file itself, since a lock that names files does not tell it and pages have to."""
        if wanted.package.ecosystem is not Ecosystem.PYPI:
            return None
        known = self._held_names.get(wanted.artifact.filename)
        if known and known.sha256 == sha256 and known.requires_python:
            return known.requires_python
        metadata = read_metadata(self._store.path(sha256), wanted.artifact.filename) or {}
        text = metadata.get("requires_python")
        return text if text and text.isprintable() else None


def _needed(order: Order) -> dict[tuple[object, ...], list[Target]]:
    """Give the packages that any target takes, by key, with those that do. Raises LockstockError."""
    needed: dict[tuple[object, ...], list[Target]] = {}
    for target in order.targets:
        for package in required(order.lock, target, order.extras, order.groups):
            needed.setdefault(package.key, []).append(target)
    return needed


def _are_strong(digests: Collection[Digest]) -> bool:
    return any(digest.is_strong for digest in digests)


def _inspection(package: Package) -> Callable[[Path], None] | None:
    """Give what looks at a package's file before it is kept, if its ecosystem has such a thing."""
    inspect = CLIENTS[package.ecosystem].inspect
    return (lambda path: inspect(path, package)) if inspect else None


def _hit(
    selections: Iterable[tuple[Order, Selection]], errors: Mapping[Key, LockstockError]
) -> dict[str, LockstockError]:
    """Name the locks that need a file which did not come, each with its first such file's error."""
    failed: dict[str, LockstockError] = {}
    for order, selection in selections:
        for choice in selection.choices:
            error = errors.get(Wanted(package=choice.package, artifact=choice.artifact).key)
            if error:
                failed.setdefault(order.record.name, error)
    return failed


def _selected(
    order: Order,
    selection: Selection,
    digests: Mapping[Key, str],
    archives: Mapping[tuple[object, ...], Stocked],
) -> Selected:
    files = (Wanted(package=c.package, artifact=c.artifact).key for c in selection.choices)
    found = {archives[package.key].sha256 for package in selection.sources if package.key in archives}
    return Selected(
        lock=order.record.name,
        target=str(selection.target),
        artifacts=tuple(sorted({*(digests[key] for key in files), *found})),
        left=tuple(
            sorted(
                f"{p.name} @ {p.source.path}" for p in selection.sources if isinstance(p.source, PathSource)
            )
        ),
    )
