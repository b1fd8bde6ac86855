"""The static tree of a snapshot, for file servers, object stores and file: URLs.

It is Python's index, and below `npm/` a registry (see `mirror.publish.npm`).

MIRROR/tree/SNAPSHOT holds all pages and, as hard links to the store, all files; MIRROR/tree/current
is a link to one of them, switched at once. A client that read a page right before the switch goes
on to fetch what that page names, so a tree holds the files of the one before it, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from filecmp import cmp
from hashlib import sha256
from pathlib import Path

from lockfiles.model import Ecosystem
from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.publish import npm, npm_tree
from mirror.publish.links import place
from mirror.publish.metadata import wheel_metadata
from mirror.publish.objects import is_page
from mirror.publish.pages import METADATA, file_path, pages
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store, disk_errors, sync_file_system, sync_folder

CURRENT = "current"
_HIDDEN = "."


def lay(layout: Layout, name: str, snapshot: Snapshot, url: str = "", *, mend: bool = False) -> Path:
    """Write the tree of a snapshot unless it is there, and give its folder; nobody is led there yet.

    `url` is where clients find it, which npm's pages have to say. With `mend`, a tree that is there is
    compared, file by file, with what it has to be. The caller holds the mirror. Raises StoreError,
    DiskFullError.
    """
    tree = layout.tree / name
    with disk_errors(layout.tree):
        if not tree.is_dir():
            _write(layout, name, snapshot, _shown(layout.tree), url).rename(tree)
            sync_folder(layout.tree)
        elif mend:
            _mend(_write(layout, name, snapshot, None, url), tree)
    return tree


def show(layout: Layout, name: str) -> None:
    """Make a tree that was laid the current one, at once for every reader. Raises StoreError."""
    if _shown(layout.tree) != name:
        with disk_errors(layout.tree):
            _switch(layout.tree, name)


def _shown(tree: Path) -> str | None:
    link = tree / CURRENT
    return link.readlink().name if link.is_symlink() else None


def prune(layout: Layout, keep: Collection[str]) -> None:
    """Remove all trees but those of the snapshots named and the current one."""
    kept = {*keep, _shown(layout.tree)}
    for path in layout.tree.iterdir() if layout.tree.is_dir() else ():
        if path.name not in kept and not path.is_symlink():
            hidden = path if path.name.startswith(_HIDDEN) else path.with_name(f"{_HIDDEN}{path.name}.old")
            path.rename(hidden)  # so that what is half gone is never taken for a tree
            shutil.rmtree(hidden)


def _write(layout: Layout, name: str, snapshot: Snapshot, old: str | None, url: str) -> Path:
    """Write the tree under a name that nobody looks at, bring it to the disk, and give its folder."""
    fresh = layout.tree / f"{_HIDDEN}{name}.new"
    before = layout.tree / old if old else fresh  # which is empty
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    files = snapshot.of_ecosystem(Ecosystem.PYPI)
    _link_files({*files, *_files_of(layout, old, Ecosystem.PYPI)}, layout.store, fresh, before)
    tarballs = npm_tree.shown(snapshot.of_ecosystem(Ecosystem.NPM), layout.store, before)
    npm_tree.link(fresh, tarballs, _files_of(layout, old, Ecosystem.NPM), layout.store)
    told = npm.pages((each.facts for each in tarballs.values()), url)
    for path, content in (*pages(files, _metadata(files, fresh)), *told):
        _write_page(fresh / path, content, before / path)
    sync_file_system(fresh)
    return fresh


def _mend(fresh: Path, tree: Path) -> None:
    """Put what the tree lacks, or has otherwise, in its place; files before the pages that name them."""
    paths = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    for path in sorted(paths, key=lambda path: is_page(path.as_posix())):
        with suppress(FileNotFoundError):
            if (tree / path).samefile(fresh / path) or cmp(fresh / path, tree / path, shallow=False):
                continue
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).replace(tree / path)
    sync_file_system(tree)
    shutil.rmtree(fresh)


def _files_of(layout: Layout, name: str | None, ecosystem: Ecosystem) -> tuple[Stocked, ...]:
    """Give the files of the tree that clients see so far, as far as its snapshot is still known."""
    with suppress(StoreError):
        files = layout.snapshots.load(name).of_ecosystem(ecosystem) if name else ()
        return tuple(file for file in files if layout.store.holds(file.sha256))
    return ()


def _link_files(files: Iterable[Stocked], store: Store, fresh: Path, before: Path) -> None:
    for file in files:
        path = fresh / file_path(file)
        if path.exists():
            continue
        known = (before / file_path(file)).exists()
        path.parent.mkdir(parents=True, exist_ok=True)  # the same bytes may have two names
        place(store.path(file.sha256), path)
        if known:  # and so its metadata, where there is any
            with suppress(FileNotFoundError):
                place(_metadata_path(before, file), _metadata_path(fresh, file))
        elif content := wheel_metadata(path, file.filename):
            _metadata_path(fresh, file).write_bytes(content)


def _metadata_path(tree: Path, file: Stocked) -> Path:
    return tree / f"{file_path(file)}{METADATA}"


def _metadata(files: Iterable[Stocked], tree: Path) -> dict[str, str]:
    found = {}
    for file in files:
        with suppress(FileNotFoundError):
            found[file.sha256] = sha256(_metadata_path(tree, file).read_bytes()).hexdigest()
    return found


def _write_page(path: Path, content: bytes, before: Path) -> None:
    """Write a page, or keep the one from before: its time, which file servers tell, is then its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if before.is_file() and before.read_bytes() == content:
        place(before, path)
    else:
        path.write_bytes(content)


def _switch(tree: Path, name: str) -> None:
    fresh = tree / f"{_HIDDEN}{CURRENT}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.rename(tree / CURRENT)
    sync_folder(tree)
