"""What the locks of npm, pnpm, Yarn and Bun have in common: names, integrity, places, platforms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from lockfiles.errors import LockError
from lockfiles.model import (
    Artifact,
    Digest,
    Ecosystem,
    GitSource,
    IndexSource,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.platforms import ANYWHERE, Platforms
from lockfiles.urls import filename_of, is_commit

_PART = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*"
_NAME = re.compile(rf"(?:@{_PART}/)?{_PART}")
_VERSION = re.compile(r"\d{1,16}\.\d{1,16}\.\d{1,16}(?:[-+][0-9A-Za-z.+-]*)?")
_LONGEST_NAME = 214
_GIT_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}


def check_npm_name(name: str) -> str:
    """Give a name back that the registry could have. Raises ValueError.

    Only ASCII is allowed, so no name looks like another or leads out of a folder.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or name in ("node_modules", "favicon.ico"):
        raise ValueError(f"{name!r} is not the name of an npm package")
    return name


def check_npm_version(version: str) -> str:
    """Give a semantic version back. Raises ValueError."""
    if not _VERSION.fullmatch(version) or len(version) > 256:
        raise ValueError(f"{version!r} is not a version as npm writes them")
    return version


def tarball_name(name: str, version: str) -> str:
    """Name a package's tarball in the way of the registry."""
    return f"{name.rpartition('/')[2]}-{version}.tgz"


def parse_integrity(text: str) -> tuple[Digest, ...]:
    """Read W3C Subresource Integrity, which may hold several digests.

    Raises ValueError for an algorithm that is not known, and where one has two, since one file has one hash.
    """
    found: dict[str, Digest] = {}
    for item in text.split():
        digest = Digest.parse_sri(item.partition("?")[0])
        if found.setdefault(digest.algorithm, digest) != digest:
            raise ValueError(f"integrity has several {digest.algorithm} digests")
    return tuple(sorted(found.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of a lock: strings as they are written, empty where there are none.

    `resolved` is a place in any of the ways that npm writes them.
    """

    name: str
    version: str
    resolved: str = ""
    integrity: str = ""
    platforms: Platforms = ANYWHERE
    optional: bool = False

    def package(self) -> Package:
        """Check the entry and give its package. Raises ValueError."""
        name = check_npm_name(self.name)
        source = source_of(self.resolved, name, self.version)
        digests = parse_integrity(self.integrity)
        if isinstance(source, IndexSource):
            version = check_npm_version(self.version)
            filename = tarball_name(name, version)
            artifact = Artifact(filename=filename, digests=digests, url=_address(self.resolved))
        elif isinstance(source, UrlSource):
            artifact = Artifact(filename=filename_of(source.url), digests=digests, url=source.url)
        return Package(
            name=name,
            ecosystem=Ecosystem.NPM,
            version=check_npm_version(self.version) if self.version else None,
            artifacts=(artifact,) if isinstance(source, (IndexSource, UrlSource)) else (),
            source=source,
            platforms=self.platforms,
            optional=self.optional,
        )


def source_of(resolved: str, name: str, version: str) -> Source:
    """Tell from where a package comes: no place, or the registry's own kind of path, is the registry.

    Raises ValueError.
    """
    if not resolved:
        return IndexSource()
    if git := _git(resolved):
        return git
    if resolved.startswith(("http://", "https://")):
        usual = f"/{name}/-/{tarball_name(name, version)}"
        path = urlsplit(resolved).path.replace("%2f", "/").replace("%2F", "/").replace("%40", "@")
        return IndexSource() if path.endswith(usual) else UrlSource(url=resolved.partition("#")[0])
    if resolved.startswith(("file:", "./", "../", "/")):
        return PathSource(path=resolved.removeprefix("file:"))
    raise ValueError(f"{resolved!r} is a place of a kind that is not known")


def _git(resolved: str) -> GitSource | None:
    """Read `git+ssh://git@host/repo.git#COMMIT`, `github:user/repo#COMMIT` and what is like them."""
    address, _, fragment = resolved.partition("#")
    scheme, _, rest = address.partition(":")
    if scheme in _GIT_HOSTS:
        address = f"https://{_GIT_HOSTS[scheme]}/{rest}.git"
    elif not (address.startswith(("git+", "git:", "git@")) or address.endswith(".git")):
        return None
    parts = dict(part.partition("=")[::2] for part in fragment.split("&") if "=" in part)
    commit = parts.get("commit", fragment)
    if not is_commit(commit):
        raise ValueError("a git dependency must be pinned to a commit of 40 hexadecimal digits")
    if address.startswith("git@"):  # the form of scp
        host, _, path = address.partition(":")
        address = f"ssh://{host}/{path}"
    return GitSource(url=address.removeprefix("git+"), commit=commit, subdirectory=parts.get("workspace"))


def _address(resolved: str) -> str | None:
    """Give the URL without the fragment, in which Yarn writes a sha1."""
    return resolved.partition("#")[0] or None


def node_lock(format: str, filename: str, packages: Iterable[Package], groups: tuple[str, ...] = ()) -> Lock:
    """Make the lock of packages that lie side by side. Raises LockError where names would collide."""
    found = tuple(packages)
    spelled: dict[str, str] = {}
    for package in found:
        other = spelled.setdefault(package.name.lower(), package.name)
        if other != package.name:
            raise LockError(
                f"{other} and {package.name} differ in case only, which many file systems do not keep apart",
                where=filename,
                hint="one of them is not what it seems: check both names",
            )
    return Lock(format=format, packages=found, groups=groups, default_groups=groups, side_by_side=True)
