"""The nightly job: lock → plan → fetch → snapshot → publish → prune → report.

Safe to kill at any point: bytes are kept as they are verified, the manifest is written when all
of them are there, and `current` moves only after the registry has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lockfiles.errors import LockError
from lockfiles.target import Target
from mirror.buildlock import BuildLocks, build_requirements, sdist_pyproject
from mirror.config import BUILD_SUFFIX, TOOLS, Config, LockSpec
from mirror.inputs import LockText, inputs_digest, read_locks
from mirror.layout import Layout
from mirror.plan import Plan
from mirror.prune import Pruned, prune
from mirror.snapshot import Selected, Snapshot, Stocked
from mirror.stock import Begin, Order, Shelf, Stockist

Publish = Callable[[str, Snapshot], None]
_WHEEL = ".whl"


@dataclass(slots=True)
class Stopwatch:
    """Seconds per named step, in the order in which they began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block; a name that comes again is added up."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a refresh did. Sizes are in bytes, steps in seconds."""

    snapshot: str | None
    changed: bool
    locks: int
    packages: int
    artifacts: int
    size: int
    fetched: int
    fetched_size: int
    pruned: Pruned
    steps: dict[str, float]
    to_fetch: tuple[str, ...] = ()


def refresh(config: Config, *, begin: Begin, publish: Publish) -> Report:
    """Stock what the locks name and publish it. Raises LockstockError of the kind that stopped it."""
    layout, watch = Layout(config.root), Stopwatch()
    with layout.exclusive():
        layout.store.sweep()
        with watch.step("read locks"):
            locks = read_locks(config)
            inputs = inputs_digest(config, locks)
        previous = layout.snapshots.current()
        snapshot = unchanged(layout, previous, inputs)
        shelves: list[Shelf] = []
        if snapshot is None:
            with watch.step("stock"):
                snapshot, shelves = asyncio.run(_stock(config, layout, locks, inputs, begin))
        name = layout.snapshots.add(snapshot)
        with watch.step("publish"):
            publish(name, snapshot)
        changed = name != layout.snapshots.current_name()
        if changed:
            layout.snapshots.switch(name)
        with watch.step("prune"):
            pruned = prune(layout, config.keep)
    return _report(name, snapshot, changed, shelves, pruned, watch)


def dry_run(config: Config) -> Report:
    """Plan only: say what a refresh would fetch for the locks themselves. Nothing is written."""
    layout, watch = Layout(config.root), Stopwatch()
    with watch.step("plan"):
        locks = read_locks(config)
        plan = asyncio.run(_plan(config, layout, locks))
    held = [wanted.artifact for wanted, _ in plan.keep]
    files = [*held, *(wanted.artifact for wanted in plan.fetch)]
    return Report(
        snapshot=layout.snapshots.current_name(),
        changed=bool(plan.fetch),
        locks=len(locks),
        packages=len({wanted.package.label for wanted in (*plan.fetch, *(w for w, _ in plan.keep))}),
        artifacts=len(files),
        size=sum(file.size or 0 for file in files),
        fetched=len(plan.fetch),
        fetched_size=plan.fetch_size,
        pruned=Pruned(),
        steps=watch.seconds,
        to_fetch=tuple(sorted(wanted.label for wanted in plan.fetch)),
    )


def unchanged(layout: Layout, current: Snapshot | None, inputs: str) -> Snapshot | None:
    """Give the current snapshot if these inputs made it and every file of it is held."""
    if current is None or current.inputs != inputs:
        return None
    return current if all(layout.store.holds(artifact.sha256) for artifact in current.artifacts) else None


async def _plan(config: Config, layout: Layout, locks: Sequence[LockText]) -> Plan:
    async with AsyncExitStack() as stack:
        stockist = Stockist(config, layout, layout.snapshots.current(), stack)
        plan, _ = await stockist.plan(_orders(config, locks))
        return plan


async def _stock(
    config: Config, layout: Layout, locks: Sequence[LockText], inputs: str, begin: Begin
) -> tuple[Snapshot, list[Shelf]]:
    """Stock the locks, and then what building and running from them asks for."""
    async with AsyncExitStack() as stack:
        stockist = Stockist(config, layout, layout.snapshots.current(), stack)
        orders = _orders(config, locks)
        first, _ = await asyncio.gather(stockist.stock(orders, begin), _resolve_early(config, layout, locks))
        more = await asyncio.to_thread(_build_orders, config, layout, locks, first)
        second = await stockist.stock(more, begin)
    snapshot = Snapshot.of(
        inputs=inputs,
        locks=[order.record for order in (*orders, *more)],
        artifacts=(*first.artifacts, *second.artifacts),
        selections=_merged((*first.selections, *second.selections)),
    )
    return snapshot, [first, second]


def _orders(config: Config, locks: Iterable[LockText]) -> list[Order]:
    folder = config.file.parent
    return [Order(record=text.record(folder), lock=text.parse(), targets=config.targets) for text in locks]


async def _resolve_early(config: Config, layout: Layout, locks: Iterable[LockText]) -> None:
    """Resolve what is known before anything is fetched, while it is fetched."""
    resolver = BuildLocks(folder=layout.build_locks, upstream=config.upstream)
    sets = {config.tools, *(lock.project_requires for lock in locks)} - {()}
    jobs = [(requires, target) for requires in sets for target in config.targets]
    await asyncio.gather(*(asyncio.to_thread(resolver.resolve, *job) for job in jobs))


def _build_orders(config: Config, layout: Layout, locks: Iterable[LockText], shelf: Shelf) -> list[Order]:
    """Order, per target, what the projects and the sdists need to be built, and the tools."""
    resolver = BuildLocks(folder=layout.build_locks, upstream=config.upstream)
    orders = []
    for target in config.targets:
        wanted = {(TOOLS, config.tools)} if config.tools else set()
        for lock in locks:
            sets = {lock.project_requires, *_sdist_requires(layout, shelf, lock.spec.name, target)} - {()}
            wanted |= {(lock.spec.name + BUILD_SUFFIX, requires) for requires in sets}
        orders += [
            _build_order(name, resolver.resolve(requires, target), layout, target)
            for name, requires in sorted(wanted)
        ]
    return orders


def _build_order(name: str, path: Path, layout: Layout, target: Target) -> Order:
    text = LockText(spec=LockSpec(name=name, path=path), text=path.read_text())
    return Order(record=text.record(layout.root), lock=text.parse(), targets=(target,))


def _sdist_requires(layout: Layout, shelf: Shelf, lock: str, target: Target) -> Iterator[tuple[str, ...]]:
    """Give what each sdist that this lock and target take asks for to be built."""
    taken = {d for s in shelf.selections if (s.lock, s.target) == (lock, str(target)) for d in s.artifacts}
    for artifact in shelf.artifacts:
        if artifact.sha256 in taken and not artifact.filename.endswith(_WHEEL):
            yield _requires_of(layout, artifact)


def _requires_of(layout: Layout, artifact: Stocked) -> tuple[str, ...]:
    try:
        return build_requirements(sdist_pyproject(layout.store.path(artifact.sha256), artifact.filename))
    except ValueError as error:
        raise LockError(
            f"the sdist cannot be built: {error}",
            where=artifact.filename,
            hint="lock a version that has a wheel",
        ) from error


def _merged(selections: Iterable[Selected]) -> Iterator[Selected]:
    """Join the selections of one lock and target: build requirements come in several sets."""
    joined: dict[tuple[str, str], set[str]] = {}
    for selected in selections:
        joined.setdefault((selected.lock, selected.target), set()).update(selected.artifacts)
    for (lock, target), digests in joined.items():
        yield Selected(lock=lock, target=target, artifacts=tuple(sorted(digests)))


def _report(
    name: str, snapshot: Snapshot, changed: bool, shelves: Sequence[Shelf], pruned: Pruned, watch: Stopwatch
) -> Report:
    return Report(
        snapshot=name,
        changed=changed,
        locks=sum(":" not in lock.name for lock in snapshot.locks),
        packages=len({(a.ecosystem, a.name, a.version) for a in snapshot.artifacts}),
        artifacts=len(snapshot.artifacts),
        size=snapshot.size,
        fetched=sum(len(shelf.plan.fetch) for shelf in shelves),
        fetched_size=sum(shelf.fetched_size for shelf in shelves),
        pruned=pruned,
        steps=watch.seconds,
    )
