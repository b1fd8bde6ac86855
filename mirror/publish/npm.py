"""An npm registry as a static tree: what the registry says of each package, and its tarballs; pure.

Below the tree's `npm/` a package has `NAME/index.json`, its packument with only the stocked versions,
`NAME/install.json`, the abbreviated form, and its tarballs under `NAME/-/`. `index.html` is the
abbreviated form again, for file servers that know no other index. Packuments hold whole URLs, since
npm takes no others.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lockfiles.formats.node import check_npm_name, check_npm_version, tarball_name
from mirror.snapshot import Stocked
from mirror.tarball import read_manifest

FOLDER = "npm"
FULL = "index.json"
ABBREVIATED = "install.json"
PLAIN = "index.html"
# The name tells where the place ends: that of the tree may have a folder `npm`, too.
_TARBALL = re.compile(rb'("tarball":")https?://[^"]*?/npm/((?:@[^/"]+/)?[^/"]+/-/)')
_INSTALL_SCRIPTS = ("preinstall", "install", "postinstall")
_ABBREVIATED = (
    "name", "version", "deprecated", "dependencies", "optionalDependencies", "devDependencies",
    "bundleDependencies", "bundledDependencies", "peerDependencies", "peerDependenciesMeta", "bin",
    "directories", "dist", "engines", "hasInstallScript", "_hasShrinkwrap", "os", "cpu", "libc", "funding",
)  # fmt: skip
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)(-?)(.*)")
Version = Mapping[str, Any]


def describe(path: Path, file: Stocked) -> Version:
    """Give what a registry says of a version, but for its URL: its package.json, and its digests.

    Raises UnsafeArchiveError, which nothing can that was inspected when it was stocked.
    """
    manifest = read_manifest(path, file.filename)
    data = path.read_bytes()
    scripts = manifest.get("scripts")
    has_script = isinstance(scripts, dict) and any(stage in scripts for stage in _INSTALL_SCRIPTS)
    return {
        **manifest,
        "name": file.name,
        "version": file.version or manifest.get("version"),
        "bin": _bin(file.name, manifest.get("bin")),
        "hasInstallScript": has_script,
        "dist": {"integrity": _sri(data), "shasum": hashlib.sha1(data, usedforsecurity=False).hexdigest()},
    }


def tarball_path(name: str, version: str) -> str:
    """Give the place of a tarball below the tree, where every client looks. Raises ValueError."""
    check_npm_version(version)
    return f"{FOLDER}/{check_npm_name(name)}/-/{tarball_name(name, version)}"


def version_path(name: str, version: str) -> str:
    """Give the place of what is said of one version. Raises ValueError."""
    return f"{FOLDER}/{check_npm_name(name)}/{check_npm_version(version)}/{FULL}"


def pages(versions: Iterable[Version], url: str) -> Iterator[tuple[str, bytes]]:
    """Give every page, by its path below the tree, of versions that are sorted by name.

    `url` is where clients find the tree.
    """
    for name, group in groupby(versions, key=lambda version: str(version["name"])):
        found = [_placed(version, url) for version in group]
        found.sort(key=lambda version: precedence(version["version"]))
        for version in found:
            yield version_path(name, version["version"]), _json(version)
        yield f"{FOLDER}/{name}/{FULL}", _json(_packument(name, found))
        short = [{key: each[key] for key in _ABBREVIATED if key in each} for each in found]
        for page in (ABBREVIATED, PLAIN):
            yield f"{FOLDER}/{name}/{page}", _json(_packument(name, short))


def moved(page: bytes, url: str) -> bytes:
    """Give a page that names `url` as the place of the tree."""
    place = f"{url.rstrip('/')}/{FOLDER}/".encode()
    return _TARBALL.sub(lambda match: match[1] + place + match[2], page)


def precedence(version: str) -> tuple[Any, ...]:
    """Give what orders versions as semver does, releases after what comes before them."""
    match = _NUMBERS.match(version)
    if match is None:
        return (0, 0, 0, False, ())
    parts = match[5].partition("+")[0].split(".") if match[4] else []
    kinds = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
    return (int(match[1]), int(match[2]), int(match[3]), not match[4], kinds)


def _placed(version: Version, url: str) -> dict[str, Any]:
    path = quote(tarball_path(version["name"], version["version"]), safe="/@")
    dist = {**version["dist"], "tarball": f"{url.rstrip('/')}/{path}"}
    return {key: value for key, value in {**version, "dist": dist}.items() if value not in (None, False)}


def _packument(name: str, versions: list[dict[str, Any]]) -> dict[str, Any]:
    latest = versions[-1]["version"]
    return {
        "name": name,
        "dist-tags": {"latest": latest},
        "versions": {version["version"]: version for version in versions},
    }


def _bin(name: str, value: Any) -> Any:
    """Give `bin` as a table, as the registry does; one string is for a program of the package's name."""
    return {name.rpartition("/")[2]: value} if isinstance(value, str) else value


def _sri(data: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode('ascii')}"


def _json(page: Mapping[str, Any]) -> bytes:
    return json.dumps(page, separators=(",", ":"), sort_keys=True).encode()
