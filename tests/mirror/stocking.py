"""Fills a mirror's store and shelf directly, as a refresh would, and looks whether a mirror is whole."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mirror.layout import Layout
from mirror.publish import simple
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from mirror.verify import verify
from tests.wheels import digest


def stocked(file: Path, base: str = "https://files.example", requires_python: str | None = None) -> Stocked:
    """Describe a wheel or sdist as a snapshot does."""
    name, version = file.name.removesuffix(".tar.gz").split("-")[:2]
    return Stocked(
        ecosystem="pypi", name=name.replace("_", "-"), version=version, filename=file.name,
        sha256=digest(file), size=file.stat().st_size, url=f"{base}/{file.name}",
        requires_python=requires_python,
    )  # fmt: skip


def hold(layout: Layout, file: Path) -> None:
    """Put a file into the store."""
    target = layout.store.path(digest(file))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.write_bytes(file.read_bytes())
        target.chmod(0o444)


def snapshot_of(artifacts: Iterable[Stocked]) -> Snapshot:
    """Make a snapshot in which one lock and one target take all of these."""
    files = list(artifacts)
    record = LockRecord(name="app", path="requirements.txt", format="requirements.txt", sha256="0" * 64)
    chosen = Selected(lock="app", target="3.11/linux/amd64/glibc2.36",
                      artifacts=tuple(sorted(file.sha256 for file in files)))  # fmt: skip
    return Snapshot.of([record], files, [chosen])


def stock(layout: Layout, *files: Path, base: str = "https://files.example") -> str:
    """Stock these files in a new snapshot, make it the current one and give its name."""
    for file in files:
        hold(layout, file)
    name = layout.snapshots.add(snapshot_of(stocked(file, base) for file in files))
    layout.snapshots.switch(name)
    return name


def is_whole(layout: Layout) -> bool:
    """Say whether `mirror verify` finds nothing, and the static tree serves what its pages name."""
    if verify(layout, lambda _: lambda _: None).findings:
        return False
    files = [
        (page.parent / file["url"], file["hashes"]["sha256"])
        for page in (layout.tree / "current").glob("simple/*/index.json")
        for file in json.loads(page.read_bytes())["files"]
    ]
    return bool(files) and all(digest(path.resolve()) == sha256 for path, sha256 in files)


def publish_tree(layout: Layout, name: str, snapshot: Snapshot, url: str = "", *, mend: bool = False) -> None:
    """Bring a snapshot to the static tree."""
    simple.lay(layout, name, snapshot, url, mend=mend)
    simple.show(layout, name)
