"""The nightly job: lock → plan → fetch → snapshot → publish → prune → report.

Safe to kill at any point: bytes are kept as they are verified, the manifest is written when all
of them are there, and `current` moves only after the registry has it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lockfiles.errors import LockstockError
from mirror.config import Config
from mirror.filled import Filled
from mirror.inputs import Failures, LockText, inputs_digest, read_locks
from mirror.layout import Layout
from mirror.prune import Pruned, prune
from mirror.snapshot import Snapshot
from mirror.upstream.questions import asked

if TYPE_CHECKING:
    from mirror.stock import Begin

Publish = Callable[[str, Snapshot], None]
Start = Callable[[], None]


@dataclass(slots=True)
class Stopwatch:
    """Seconds per named step, in the order in which they began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - begun


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedLock:
    """A lock that could not be met; `served` says whether it is served as it was before."""

    name: str
    reason: str
    hint: str
    served: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a refresh did, or would do. Sizes are in bytes, steps in seconds.

    What `unread_sdists` ask for to be built is not in it: it is known only when they are there. `left_out`
    says of locks that were stocked which targets they are not meant for.
    """

    snapshot: str | None
    changed: bool
    locks: int
    packages: int
    artifacts: int
    size: int
    fetched: int
    fetched_size: int
    steps: dict[str, float]
    pruned: Pruned = field(default_factory=Pruned)
    failed: tuple[FailedLock, ...] = ()
    to_fetch: tuple[str, ...] = ()
    unread_sdists: int = 0
    left_out: tuple[str, ...] = ()


def refresh(
    config: Config, *, begin: Begin, publish: Publish, prepare: Callable[[], Start] = lambda: lambda: None
) -> Report:
    """Stock what the locks name and publish it.

    `prepare` is called if something is to be stocked, while there are no threads yet, and what it gives
    when all is there that asking the upstreams takes.
    Raises LockstockError of the kind that stopped it. Locks that failed alone are in the report.
    """
    layout, watch = Layout(config.root), Stopwatch()
    with layout.exclusive():
        layout.store.sweep()
        with watch.step("read locks"):
            locks, failed = read_locks(config, layout)
            inputs = inputs_digest(config, locks)
        served, snapshot = layout.snapshots.current_name(), None if failed else unchanged(layout, inputs)
        if snapshot is not None and served is not None:
            name, filled = served, Filled(snapshot=snapshot, fetched=0, fetched_size=0, failed=failed)
        else:
            with watch.step("stock"), asked({lock.ecosystem for lock in locks}):
                filled = _filled(config, layout, locks, inputs, failed, begin, prepare)
            layout.store.settle()
            name = layout.snapshots.add(filled.snapshot)
        with watch.step("publish"):
            publish(name, filled.snapshot)
        if name != served:
            layout.snapshots.switch(name)
        with watch.step("prune"):
            pruned = prune(layout, config.keep)
    return _report(name, name != served, filled, pruned, watch.seconds)


def _filled(
    config: Config,
    layout: Layout,
    locks: Sequence[LockText],
    inputs: str,
    failed: Failures,
    begin: Begin,
    prepare: Callable[[], Start],
) -> Filled:
    gc.freeze()  # what is there stays: to look through it again and again takes longer than it frees
    gc.set_threshold(50_000)
    start = prepare()
    # What asks upstreams takes longer to import than a run with no changes does.
    from mirror.fill import fill

    start()
    return fill(config, layout, locks, inputs, failed, begin)


def _report(name: str, changed: bool, filled: Filled, pruned: Pruned, steps: Mapping[str, float]) -> Report:
    snapshot = filled.snapshot
    return Report(
        snapshot=name,
        changed=changed,
        locks=sum(":" not in lock.name for lock in snapshot.locks),
        packages=len({(a.ecosystem, a.name, a.version) for a in snapshot.artifacts}),
        artifacts=len(snapshot.artifacts),
        size=snapshot.size,
        fetched=filled.fetched,
        fetched_size=filled.fetched_size,
        pruned=pruned,
        steps=dict(steps),
        failed=_failed(filled.failed, snapshot.stale),
        left_out=filled.left_out,
    )


def dry_run(config: Config) -> Report:
    """Plan only: say what a refresh would fetch. Nothing is stocked, and no build lock is kept."""
    from mirror.foresee import foresee

    layout, watch = Layout(config.root), Stopwatch()
    with watch.step("plan"):
        locks, unread = read_locks(config, layout)
        foreseen = foresee(config, layout, locks)
    plan = foreseen.plan
    wanted = [*plan.fetch, *(held for held, _ in plan.keep)]
    return Report(
        snapshot=layout.snapshots.current_name(),
        changed=bool(plan.fetch),
        locks=len(locks),
        packages=len({item.package.label for item in wanted}),
        artifacts=len(wanted),
        size=sum(item.artifact.size or 0 for item in wanted),
        fetched=len(plan.fetch),
        fetched_size=plan.fetch_size,
        steps=watch.seconds,
        failed=_failed({**unread, **foreseen.failed}, ()),
        to_fetch=tuple(sorted(item.label for item in plan.fetch)),
        unread_sdists=foreseen.unread,
        left_out=foreseen.left_out,
    )


def unchanged(layout: Layout, inputs: str) -> Snapshot | None:
    """Give the current snapshot if these inputs made it and every file of it is held."""
    current = layout.snapshots.readable()
    if current is None or current.inputs != inputs:
        return None
    return current if all(layout.store.holds(artifact.sha256) for artifact in current.artifacts) else None


def _failed(errors: Failures, stale: tuple[str, ...]) -> tuple[FailedLock, ...]:
    def told(name: str, error: LockstockError) -> FailedLock:
        return FailedLock(name=name, reason=str(error), hint=error.hint, served=name in stale)

    return tuple(told(name, error) for name, error in sorted(errors.items()))
