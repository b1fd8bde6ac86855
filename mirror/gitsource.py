"""Stocks packages that come from git: one commit as an archive, with its tree's hash recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lockfiles.model import GitSource, Package
from mirror.git import fetch_commit
from mirror.snapshot import Stocked
from mirror.store import Expected, Store
from mirror.upstream.settings import expanded, without_secrets


def archive_name(package: Package, source: GitSource) -> str:
    """Name the archive so that it is found again, and no index takes it for an sdist."""
    return f"{_flat(package)}-git-{source.commit}.tar"


def _flat(package: Package) -> str:
    """Give the name as a part of a file's name; that of an npm scope has a slash."""
    return package.name.removeprefix("@").replace("/", "-")


def stock_commit(
    clones: Path, store: Store, package: Package, source: GitSource, held: Stocked | None, limit: int
) -> Stocked:
    """Bring the commit that a lock pins into the store, as a tar of at most `limit` bytes.

    What is `held` of it is not fetched again: a commit does not change. Raises UpstreamError.
    """
    folder = f"#subdirectory={source.subdirectory}" if source.subdirectory else ""
    url = f"git+{without_secrets(source.url)}@{source.commit}{folder}"
    if held and held.tree and store.holds(held.sha256):
        return replace(held, url=url, name=package.name, version=package.version or "")
    checkout = fetch_commit(clones, expanded(source.url), source.commit)
    filename = archive_name(package, source)
    # git has verified the commit's objects by their hashes; the archive is made here.
    with store.receive(Expected(label=filename, limit=limit, made_here=True)) as incoming:
        checkout.archive(f"{_flat(package)}-{source.commit[:12]}", incoming)
        sha256, size = store.keep(incoming), incoming.received
    return Stocked(
        ecosystem=package.ecosystem,
        name=package.name,
        version=package.version or "",
        filename=filename,
        sha256=sha256,
        size=size,
        url=url,
        tree=checkout.tree,
    )
