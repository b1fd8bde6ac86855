"""What one image has and another has not: packages, layers, and what a puller must fetch. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from imagegen.inspection import Inspection, Item, StackedLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A package of which the versions, or the files, are others; each side sorted."""

    package: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one image to another.

    `changes` is None where one of them does not say what is in it. `removed` and `added` are
    layers, `shared` how many both have, `fetch` the bytes that who has the first must fetch for the
    second: layers, configuration and manifest.
    """

    before: str
    after: str
    changes: tuple[Change, ...] | None
    removed: tuple[StackedLayer, ...]
    added: tuple[StackedLayer, ...]
    shared: int
    size_before: int
    size_after: int
    fetch: int

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        return asdict(self)


def difference(before: Inspection, after: Inspection) -> Difference:
    """Compare two images."""
    held = {layer.digest for layer in before.layers}
    wanted = {layer.digest for layer in after.layers}
    added = _once(layer for layer in after.layers if layer.digest not in held)
    same = before.digest == after.digest
    return Difference(
        before=before.digest,
        after=after.digest,
        changes=_changes(before.packages, after.packages),
        removed=_once(layer for layer in before.layers if layer.digest not in wanted),
        added=added,
        shared=len(held & wanted),
        size_before=before.size,
        size_after=after.size,
        fetch=0 if same else sum(layer.size for layer in added) + after.overhead,
    )


def _once(layers: Iterable[StackedLayer]) -> tuple[StackedLayer, ...]:
    return tuple({layer.digest: layer for layer in layers}.values())


def _changes(before: tuple[Item, ...] | None, after: tuple[Item, ...] | None) -> tuple[Change, ...] | None:
    if before is None or after is None:
        return None
    old, new = _by_package(before), _by_package(after)
    return tuple(
        Change(package=name, before=_versions(old.get(name, ())), after=_versions(new.get(name, ())))
        for name in sorted({*old, *new})
        if _content(old.get(name, ())) != _content(new.get(name, ()))
    )


def _by_package(items: Iterable[Item]) -> dict[str, tuple[Item, ...]]:
    found: dict[str, tuple[Item, ...]] = {}
    for item in items:
        name = f"{item.ecosystem}:{item.name}"
        found[name] = (*found.get(name, ()), item)
    return found


def _versions(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(sorted({item.version for item in items}))


def _content(items: Iterable[Item]) -> set[tuple[str, str, str, str]]:
    """Say what makes a package another: not the layer that it lies in."""
    return {(item.version, item.file, item.sha256, item.use) for item in items}
