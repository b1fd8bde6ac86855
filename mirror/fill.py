"""Fills the store for all locks at once, and gives the snapshot of what they name.

A lock that cannot be met fails alone: the others go on, and it is served as it was before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from lockfiles.closure import mismatch
from lockfiles.errors import LockError, LockstockError
from lockfiles.model import Ecosystem
from lockfiles.select import Selection
from lockfiles.target import Target
from mirror.buildlock import BuildLocks, build_requirements, sdist_pyproject
from mirror.config import BUILD_SUFFIX, TOOLS, Config, LockSpec
from mirror.filled import Filled
from mirror.inputs import Failures, LockText
from mirror.layout import Layout
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from mirror.stock import Begin, Order, Shelf, Stockist

RequiresOf = Callable[[str, Target], Iterable[tuple[str, ...]]]
"""Gives the requirement sets of the sdists that the lock of a name takes for a target."""
_WHEEL = ".whl"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What was stocked for which orders, and the locks that failed in it."""

    orders: tuple[Order, ...]
    shelves: tuple[Shelf, ...]
    failed: Failures


def fill(
    config: Config, layout: Layout, locks: Sequence[LockText], inputs: str, unread: Failures, begin: Begin
) -> Filled:
    """Stock the locks, and then what building and running from them asks for.

    `unread` are the locks that could not even be read. Raises the first error if no lock can be met.
    """
    filled: list[Filled] = []

    async def run() -> None:
        # As the result of the main task, all of it would be written out by `repr`: asyncio has its signal
        # handler turned into an enumeration's member, which fails with words that nobody sees.
        filled.append(await _fill(config, layout, locks, inputs, unread, begin))

    asyncio.run(run())
    return filled[0]


def select_one(config: Config, layout: Layout, lock: LockText, target: Target) -> Selection:
    """Choose what one target takes of one lock; the indexes are asked for what the lock leaves out."""

    async def chosen() -> Selection:
        async with AsyncExitStack() as stack:
            stockist = Stockist(config, layout, layout.snapshots.readable(), stack)
            order = replace(_order(config, lock), targets=(target,))
            ((_, selection),) = await stockist.selections(order)
            return selection

    return asyncio.run(chosen())


async def _fill(
    config: Config, layout: Layout, locks: Sequence[LockText], inputs: str, unread: Failures, begin: Begin
) -> Filled:
    previous = layout.snapshots.readable()
    async with AsyncExitStack() as stack:
        stockist = Stockist(config, layout, previous, stack)
        work = await _work(config, layout, locks, unread, stockist, begin)
    failed = work.failed | _conflicts(
        [s for shelf in work.shelves for s in shelf.selections if owner(s.lock) not in work.failed],
        [a for shelf in work.shelves for a in shelf.artifacts],
    )
    _raise_if_none(locks, failed)
    return Filled(
        snapshot=_snapshot(work, inputs, previous, failed),
        fetched=sum(shelf.fetched for shelf in work.shelves),
        fetched_size=sum(shelf.fetched_size for shelf in work.shelves),
        failed=failed,
        left_out=left_out(config, (order for order in work.orders if ":" not in order.record.name)),
    )


async def _work(
    config: Config,
    layout: Layout,
    locks: Sequence[LockText],
    unread: Failures,
    stockist: Stockist,
    begin: Begin,
) -> _Work:
    """Stock what the locks name, and then, of those that can be met, what builds and tools ask for."""
    orders, unparsed = orders_of(config, locks)
    resolver = resolver_in(config, layout.build_locks)
    first, _ = await asyncio.gather(
        stockist.stock(orders, begin), resolve_early(config, resolver, locks, orders)
    )
    failed = {**unread, **unparsed, **first.failed}
    met = [lock for lock in locks if lock.spec.name not in failed]
    if not met:
        return _Work(orders=tuple(orders), shelves=(first,), failed=failed)
    requires = partial(_sdist_requires, layout, first)
    targets = targets_of(orders)
    more, unresolved = await asyncio.to_thread(build_orders, config, layout, resolver, met, targets, requires)
    second = await stockist.stock(more, begin)
    failed |= {owner(name): error for name, error in {**unresolved, **second.failed}.items()}
    if not failed:
        stockist.forget_unused()
    return _Work(orders=(*orders, *more), shelves=(first, second), failed=failed)


def _snapshot(work: _Work, inputs: str, previous: Snapshot | None, failed: Failures) -> Snapshot:
    """Give the snapshot of what could be met, with what the failed locks had before."""
    kept = _kept(previous, failed)
    made = [order.record for order in work.orders if owner(order.record.name) not in failed]
    names = {record.name for record in made}
    selections = [s for shelf in work.shelves for s in shelf.selections if s.lock in names]
    artifacts = [artifact for shelf in work.shelves for artifact in shelf.artifacts]
    return Snapshot.of(
        inputs="" if failed else inputs,
        locks=[*made, *kept.locks],
        artifacts=_reached([*kept.artifacts, *artifacts], [*selections, *kept.selections]),
        selections=[*_merged(selections), *kept.selections],
        stale=[name for name in failed if any(owner(lock.name) == name for lock in kept.locks)],
    )


def orders_of(config: Config, locks: Iterable[LockText]) -> tuple[list[Order], Failures]:
    """Order what the locks name, for every target; those that cannot be read, by name with the reason."""
    orders, failed = [], Failures()
    for text in locks:
        try:
            orders.append(_order(config, text))
        except LockstockError as error:
            failed[text.spec.name] = error
    return orders, failed


def _order(config: Config, text: LockText) -> Order:
    """Order a lock for the targets that it is meant for; where it is for none, selecting tells why."""
    lock = text.parse()
    return Order(
        record=text.record(config.file.parent),
        lock=lock,
        targets=tuple(t for t in config.targets if mismatch(lock, t) is None) or config.targets,
        extras=text.spec.extras,
        groups=text.spec.groups,
        sdists=text.spec.sdists,
        allow_sha1=text.spec.allow_sha1,
    )


def left_out(config: Config, orders: Iterable[Order]) -> tuple[str, ...]:
    """Say of each lock which of the targets it is not meant for, while it is for others."""
    return tuple(
        f"{order.record.path}: {mismatch(order.lock, target)}; left out"
        for order in orders
        for target in config.targets
        if target not in order.targets
    )


def resolver_in(config: Config, folder: Path) -> BuildLocks:
    """Give what resolves build requirements, and finds in `folder` those that are resolved."""
    return BuildLocks(folder=folder, upstreams=config.upstreams)


async def resolve_early(
    config: Config, resolver: BuildLocks, locks: Sequence[LockText], orders: Iterable[Order]
) -> None:
    """Resolve what is known before anything is fetched, while it is fetched; errors come up again."""
    targets, tools = targets_of(orders), _tools(config, locks)
    builds = {(s, t) for lock in locks for s in lock.builds for t in targets.get(lock.spec.name, ())}
    jobs = [job for job in {*((tools, target) for target in config.targets), *builds} if job[0]]
    loop = asyncio.get_running_loop()
    # Threads of its own: name look-ups and finished files wait for the usual ones.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = (loop.run_in_executor(pool, resolver.resolve, *job) for job in jobs)
        await asyncio.gather(*waiting, return_exceptions=True)


def targets_of(orders: Iterable[Order]) -> dict[str, tuple[Target, ...]]:
    """Give the targets of the locks by their names."""
    return {order.record.name: order.targets for order in orders}


def build_orders(
    config: Config,
    layout: Layout,
    resolver: BuildLocks,
    locks: Sequence[LockText],
    targets: Mapping[str, Sequence[Target]],
    requires_of: RequiresOf,
) -> tuple[list[Order], Failures]:
    """Order what the projects and the sdists need to be built, per target of their lock, and the tools."""
    tools = _tools(config, locks)
    wanted = {(TOOLS, tools, target) for target in config.targets if tools}
    orders, failed = [], Failures()
    for lock in locks:
        name = lock.spec.name
        try:
            sets = [(t, s) for t in targets[name] for s in {*lock.builds, *requires_of(name, t)}]
        except LockstockError as error:
            failed[name] = error
            continue
        wanted |= {(name + BUILD_SUFFIX, requires, target) for target, requires in sets if requires}
    for name, requires, target in sorted(wanted):
        try:
            orders.append(_build_order(name, resolver, requires, target, layout))
        except LockstockError as error:
            failed[name] = error
    return orders, failed


def _tools(config: Config, locks: Iterable[LockText]) -> tuple[str, ...]:
    """Give the tools, which are Python's and so for locks of Python only."""
    return config.tools if any(lock.ecosystem is Ecosystem.PYPI for lock in locks) else ()


def _build_order(
    name: str, resolver: BuildLocks, requires: tuple[str, ...], target: Target, layout: Layout
) -> Order:
    path = resolver.resolve(requires, target)
    text = LockText(spec=LockSpec(name=name, path=path), text=path.read_text(encoding="utf-8"))
    return Order(record=text.record(layout.root), lock=text.parse(), targets=(target,))


def _sdist_requires(layout: Layout, shelf: Shelf, lock: str, target: Target) -> Iterator[tuple[str, ...]]:
    """Give what each sdist that this lock and target take asks for to be built."""
    taken = {d for s in shelf.selections if (s.lock, s.target) == (lock, str(target)) for d in s.artifacts}
    for artifact in shelf.artifacts:
        if is_sdist(artifact.ecosystem, artifact.filename) and artifact.sha256 in taken:
            yield asked_by(layout.store.path(artifact.sha256), artifact.filename, artifact.url)


def is_sdist(ecosystem: str, filename: str) -> bool:
    """Say whether a file has to be built before it is installed."""
    return ecosystem == Ecosystem.PYPI and not filename.endswith(_WHEEL)


def asked_by(path: Path, filename: str, url: str) -> tuple[str, ...]:
    """Give what an sdist asks for to be built; its URL may name a folder in it. Raises LockError."""
    try:
        folder = urlsplit(url).fragment.removeprefix("subdirectory=")
        return build_requirements(sdist_pyproject(path, filename, folder))
    except ValueError as error:
        raise LockError(
            f"the sdist cannot be built: {error}",
            where=filename,
            hint="lock a version that has a wheel",
        ) from error


def _conflicts(selections: Iterable[Selected], artifacts: Iterable[Stocked]) -> Failures:
    """Name the locks that pin other bytes under a file name than one before them: an index has but one."""
    by_digest = {artifact.sha256: artifact for artifact in artifacts}
    taken: dict[tuple[str, str, str], tuple[str, str]] = {}
    failed = Failures()
    for selected in sorted(selections):
        for artifact in (by_digest[digest] for digest in selected.artifacts):
            key = (artifact.ecosystem, artifact.name, artifact.filename)
            digest, lock = taken.setdefault(key, (artifact.sha256, selected.lock))
            if digest != artifact.sha256:
                failed[owner(selected.lock)] = LockError(
                    f"pins other bytes of {artifact.filename} than {owner(lock)} does",
                    where=owner(selected.lock),
                    hint="an index has one file of a name; lock both against the same index",
                )
    return failed


def owner(name: str) -> str:
    """Name the lock that a build lock belongs to; the tools are a lock of their own."""
    return name if name == TOOLS else name.removesuffix(BUILD_SUFFIX)


def _raise_if_none(locks: Sequence[LockText], failed: Failures) -> None:
    """End with the first lock's own error where no lock at all can be met."""
    if failed and all(lock.spec.name in failed for lock in locks):
        order = {lock.spec.name: index for index, lock in enumerate(locks)}
        raise failed[min(failed, key=lambda name: (order.get(name, -1), name))]


def _kept(previous: Snapshot | None, failed: Failures) -> Snapshot:
    """Give the part of the previous snapshot that the failed locks had."""
    if previous is None:
        return Snapshot.of([], [], [])

    def is_kept(record: LockRecord | Selected) -> bool:
        name = owner(record.name if isinstance(record, LockRecord) else record.lock)
        return any(name == lost or name.startswith(f"{lost}/") for lost in failed)

    selections = [selected for selected in previous.selections if is_kept(selected)]
    return Snapshot.of(filter(is_kept, previous.locks), _reached(previous.artifacts, selections), selections)


def _reached(artifacts: Iterable[Stocked], selections: Iterable[Selected]) -> list[Stocked]:
    wanted = {digest for selected in selections for digest in selected.artifacts}
    return [artifact for artifact in artifacts if artifact.sha256 in wanted]


def _merged(selections: Iterable[Selected]) -> Iterator[Selected]:
    """Join the selections of one lock and target: build requirements come in several sets."""
    joined: dict[tuple[str, str], Selected] = {}
    for selected in selections:
        first = joined.setdefault((selected.lock, selected.target), selected)
        joined[selected.lock, selected.target] = replace(
            first,
            artifacts=tuple(sorted({*first.artifacts, *selected.artifacts})),
            left=tuple(sorted({*first.left, *selected.left})),
        )
    yield from joined.values()
