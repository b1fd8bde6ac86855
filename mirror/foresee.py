"""Says what a refresh would fetch, without fetching or keeping anything."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lockfiles.model import Ecosystem, GitSource
from lockfiles.target import Target
from mirror.buildlock import BuildLocks
from mirror.config import Config
from mirror.fill import (
    asked_by,
    build_orders,
    is_sdist,
    left_out,
    orders_of,
    owner,
    resolve_early,
    resolver_in,
    targets_of,
)
from mirror.gitsource import archive_name
from mirror.inputs import Failures, LockText
from mirror.layout import Layout
from mirror.plan import Plan, Wanted, make_plan
from mirror.snapshot import Snapshot
from mirror.stock import Planned, Stockist


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What a refresh would do, but for what `unread` sdists ask for, which are not there to be read."""

    plan: Plan
    failed: Failures
    unread: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """An sdist that a lock takes for a target, with its sha256 where it is held."""

    lock: str
    target: str
    filename: str
    url: str
    sha256: str | None


def foresee(config: Config, layout: Layout, locks: Sequence[LockText]) -> Foreseen:
    """Plan for the locks, and for what building and running from them asks for.

    Nothing is kept: requirements that were not resolved before are resolved in a folder for now.
    """
    with TemporaryDirectory() as folder:
        if layout.build_locks.is_dir():
            shutil.copytree(layout.build_locks, folder, dirs_exist_ok=True)
        return asyncio.run(_foresee(config, layout, locks, resolver_in(config, Path(folder))))


async def _foresee(
    config: Config, layout: Layout, locks: Sequence[LockText], resolver: BuildLocks
) -> Foreseen:
    previous = layout.snapshots.readable()
    orders, failed = orders_of(config, locks)
    async with AsyncExitStack() as stack:
        stockist = Stockist(config, layout, previous, stack)
        first, _ = await asyncio.gather(stockist.plan(orders), resolve_early(config, resolver, locks, orders))
        failed |= first.failed
        met = [lock for lock in locks if lock.spec.name not in failed]
        sources = _sources(first, previous, layout)
        requires = partial(_held_requires, layout, sources)
        targets = targets_of(orders)
        more, unresolved = await asyncio.to_thread(
            build_orders, config, layout, resolver, met, targets, requires
        )
        second = await stockist.plan(more)
    held = {wanted.key: sha256 for planned in (first, second) for wanted, sha256 in planned.plan.keep}
    selections = (selection for planned in (first, second) for _, selection in planned.selections)
    return Foreseen(
        plan=make_plan(selections, lambda wanted: held.get(wanted.key)),
        failed=failed | {owner(name): error for name, error in {**unresolved, **second.failed}.items()},
        unread=len({source.filename for source in sources if source.sha256 is None}),
        left_out=left_out(config, orders),
    )


def _sources(planned: Planned, previous: Snapshot | None, layout: Layout) -> list[_Source]:
    """Find the sdists that a plan takes, and the commits, whose archives a snapshot knows by name."""
    digests = {wanted.key: sha256 for wanted, sha256 in planned.plan.keep}
    archives = {a.filename: a for a in previous.artifacts} if previous else {}
    found = []
    for order, selection in planned.selections:
        named = partial(_Source, lock=order.record.name, target=str(selection.target))
        for choice in selection.choices:
            file = choice.artifact
            if is_sdist(choice.package.ecosystem, file.filename):
                sha256 = digests.get(Wanted(package=choice.package, artifact=file).key)
                found.append(named(filename=file.filename, url=file.url or "", sha256=sha256))
        for package in selection.sources:
            if package.ecosystem is Ecosystem.PYPI and isinstance(package.source, GitSource):
                name = archive_name(package, package.source)
                held = archives.get(name)
                is_held = held is not None and layout.store.holds(held.sha256)
                url, sha256 = (held.url, held.sha256) if held and is_held else ("", None)
                found.append(named(filename=name, url=url, sha256=sha256))
    return found


def _held_requires(
    layout: Layout, sources: Iterable[_Source], lock: str, target: Target
) -> Iterator[tuple[str, ...]]:
    """Give what each of these sdists asks for to be built, as far as it is held."""
    for source in sources:
        if source.sha256 and (source.lock, source.target) == (lock, str(target)):
            yield asked_by(layout.store.path(source.sha256), source.filename, source.url)
