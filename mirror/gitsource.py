"""Stocks packages that come from git: one commit as an archive, with its tree's hash recorded."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from lockfiles.model import Digest, GitSource, Package
from mirror.git import fetch_commit
from mirror.snapshot import Stocked
from mirror.store import Expected, Store
from mirror.upstream.settings import redact


def archive_name(package: Package, source: GitSource) -> str:
    """Name the archive so that it is found again, and no index takes it for an sdist."""
    return f"{_flat(package)}-git-{source.commit}.tar"


def _flat(package: Package) -> str:
    """Give the name as a part of a file's name; that of an npm scope has a slash."""
    return package.name.removeprefix("@").replace("/", "-")


def stock_commit(
    clones: Path, store: Store, package: Package, source: GitSource, held: Stocked | None
) -> Stocked:
    """Bring the commit that a lock pins into the store. Raises UpstreamError.

    What is `held` of it is taken as it is: a commit does not change.
    """
    if held and store.holds(held.sha256):
        return held
    checkout = fetch_commit(clones, source.url, source.commit)
    data = checkout.archive(f"{_flat(package)}-{source.commit[:12]}")
    filename = archive_name(package, source)
    digest = sha256(data).hexdigest()
    # git has verified the commit's objects by their hashes; the archive is made here.
    expected = Expected(label=filename, digests=(Digest("sha256", digest),), size=len(data))
    with store.receive(expected) as incoming:
        incoming.write(data)
        store.keep(incoming)
    folder = f"#subdirectory={source.subdirectory}" if source.subdirectory else ""
    return Stocked(
        ecosystem=package.ecosystem,
        name=package.name,
        version=package.version or "",
        filename=filename,
        sha256=digest,
        size=len(data),
        url=f"git+{redact(source.url)}@{source.commit}{folder}",
        tree=checkout.tree,
    )
