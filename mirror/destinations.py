"""Where else a snapshot is published to, as lockstock.toml says it: a bucket, and a devpi-server."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lockfiles.document import Table
from mirror.urls import guarded_url, open_url

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?")
_DEVPI_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreSpec:
    """A bucket to publish to, below `prefix`. What is None is what the standard AWS configuration says.

    `url` is where clients find what is below the prefix.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    url: str | None = None

    @property
    def place(self) -> str:
        """Name it in a message."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDevpiSpec:
    """A devpi-server elsewhere to publish to, by uploads. `index` is the stable one that clients know.

    The password of `user`, who owns the indexes, is never in the file.
    """

    url: str
    user: str
    index: str = "current"

    @property
    def place(self) -> str:
        """Name it in a message."""
        return f"{self.url}/{self.user}/{self.index}"


def read_object_store(table: Table) -> ObjectStoreSpec:
    """Read `[object_store]`. Raises ConfigError."""
    spec = ObjectStoreSpec(
        bucket=table.string("bucket"),
        prefix=table.string("prefix", "").strip("/"),
        endpoint=table.parsed("endpoint", open_url),
        url=table.parsed("url", open_url),
    )
    table.finish()
    for key, value, form in (("bucket", spec.bucket, _BUCKET), ("prefix", spec.prefix, _PREFIX)):
        if not form.fullmatch(value):
            raise table.fault(key, "has characters that do not belong there")
    return spec


def read_remote_devpi(table: Table) -> RemoteDevpiSpec:
    """Read `[remote_devpi]`. Raises ConfigError."""
    spec = RemoteDevpiSpec(
        url=table.required("url", guarded_url),
        user=table.string("user"),
        index=table.string("index", "current"),
    )
    table.finish()
    for key, value in (("user", spec.user), ("index", spec.index)):
        if not _DEVPI_NAME.fullmatch(value):
            raise table.fault(key, "is not the name of a user or an index of devpi")
    if spec.index.startswith("s-"):
        raise table.fault("index", "may not begin with 's-', as those of the snapshots do")
    return spec
