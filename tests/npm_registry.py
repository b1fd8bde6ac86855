"""npm tarballs, locks of them, and a registry on loopback that tells the truth unless told otherwise."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.index_server import IndexServer

Member = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True)
class Tarball:
    """A package as it is published."""

    name: str
    version: str
    data: bytes
    manifest: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def filename(self) -> str:
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def path(self) -> str:
        return f"/{self.name}/-/{self.filename}"

    @property
    def integrity(self) -> str:
        return sri(self.data, "sha512")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def sri(data: bytes, algorithm: str) -> str:
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def archive(members: Iterable[Member]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def make_tarball(name: str, version: str = "1.0.0", more: Iterable[Member] = (), **manifest: Any) -> Tarball:
    facts = {"name": name, "version": version, **manifest}
    members = [
        member("package/package.json", json.dumps(facts).encode()),
        member("package/index.js", b"module.exports = 1\n"),
        *more,
    ]
    return Tarball(name=name, version=version, data=archive(members), manifest=facts)


def lock_entry(tarball: Tarball, registry: str | None = None, **fields: Any) -> dict[str, Any]:
    place = {"resolved": f"{registry}{tarball.path}"} if registry else {}
    kept = ("dependencies", "optionalDependencies", "os", "cpu", "libc", "bin")
    facts = {key: tarball.manifest[key] for key in kept if key in tarball.manifest}
    return {"version": tarball.version, **place, "integrity": tarball.integrity, **facts, **fields}


def package_lock(tarballs: Iterable[Tarball], registry: str | None = None, **fields: Any) -> str:
    """Write a lock of version 3 whose project depends on all of these."""
    tarballs = list(tarballs)
    root = {"name": "app", "version": "1.0.0", "dependencies": {t.name: t.version for t in tarballs}}
    places = {f"node_modules/{t.name}": lock_entry(t, registry, **fields) for t in tarballs}
    return json.dumps({
        "name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": True,
        "packages": {"": root, **places},
    })  # fmt: skip


@dataclass
class NpmRegistry(IndexServer):
    """Serves tarballs as a registry does. `told` changes what it says of a version."""

    folder: Path = Path()
    tarballs: list[Tarball] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    def _content(self, path: str) -> tuple[bytes | None, str]:
        if path in self.pages:
            return self.pages[path], "text/html"
        plain = unquote(path)
        for tarball in self.tarballs:
            if plain == tarball.path:
                return tarball.data, "application/octet-stream"
        versions = {t.version: self._version(t) for t in self.tarballs if plain == f"/{t.name}"}
        if not versions:
            return None, "text/html"
        tags = {"latest": max(versions)}
        page = {"name": plain[1:], "dist-tags": tags, "versions": versions, **self.told}
        return json.dumps(page).encode(), "application/vnd.npm.install-v1+json"

    def _version(self, tarball: Tarball) -> dict[str, Any]:
        dist = {
            "tarball": f"{self.url}{tarball.path}",
            "integrity": tarball.integrity,
            "shasum": hashlib.sha1(tarball.data).hexdigest(),
        }
        return {**tarball.manifest, "dist": dist}
