"""Fills the npm part of a tree: which tarball stands for a version, what is said of it, and its link."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mirror.publish import npm
from mirror.publish.links import place
from mirror.snapshot import Stocked
from mirror.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The file that stands for one version of a package, and what its packument says of it."""

    file: Stocked
    facts: npm.Version


def shown(files: Iterable[Stocked], store: Store, before: Path | None = None) -> Mapping[str, Shown]:
    """Give what to show by the place of its tarball, sorted; what a tree from before says is kept.

    Where two files are the same version of a package, the one from the registry's own place stands
    for it. A tarball of some URL that calls its version what no registry would is not shown.
    """
    found: dict[str, Shown] = {}
    for file in sorted(files, key=lambda file: (file.name, "/-/" not in file.url, file.sha256)):
        facts = (before and _known(file, store, before)) or npm.describe(store.path(file.sha256), file)
        with suppress(ValueError):
            path = npm.tarball_path(file.name, str(facts["version"]))
            found.setdefault(path, Shown(file=file, facts=facts))
    return dict(sorted(found.items(), key=lambda item: (item[1].file.name, item[0])))


def link(tree: Path, now: Mapping[str, Shown], old: Iterable[Stocked], store: Store) -> None:
    """Put each tarball where clients look for it, and those from before as far as nothing is there."""
    wanted = {path: each.file for path, each in now.items()}
    for file in old:
        with suppress(ValueError):
            wanted.setdefault(npm.tarball_path(file.name, file.version), file)
    for path, file in wanted.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        place(store.path(file.sha256), tree / path)


def _known(file: Stocked, store: Store, before: Path) -> npm.Version | None:
    """Give what the tree from before says of the very same file."""
    try:
        if not (before / npm.tarball_path(file.name, file.version)).samefile(store.path(file.sha256)):
            return None
        facts = json.loads((before / npm.version_path(file.name, file.version)).read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
