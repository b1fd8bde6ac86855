"""The files of one devpi index: put there by hard links, and looked for."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

from mirror.publish import metadata
from mirror.snapshot import Stocked
from mirror.store import Store

_SHOWN = ("summary", "license_expression", "requires_dist", "requires_python")
_TIME = "Thu, 01 Jan 1970 00:00:00 GMT"
_BREATH = 0.05  # seconds between two looks for files that came


def read_early(files: Sequence[tuple[Path, str]]) -> None:
    """Begin to read what the index will show of files, each (path, file name), as they come.

    Otherwise the run would have to wait for all of that at its end. A file may never come.
    """
    Thread(target=_read_all, args=(files,), daemon=True).start()


def _read_all(files: Sequence[tuple[Path, str]]) -> None:
    while files:
        sleep(_BREATH)
        files = [file for file in files if not _is_read(*file)]


def _is_read(path: Path, filename: str) -> bool:
    if there := path.exists():
        shown(path, filename)
    return there


def has_file(stage: Any, file: Stocked) -> bool:
    """Say whether devpi's index has the whole file."""
    links = stage.get_linkstore_perstage(file.name, file.version).get_links(basename=file.filename)
    return bool(links) and links[0].entry.file_size() == file.size


def fill(stage: Any, files: Iterable[Stocked], store: Store) -> None:
    """Register files, sorted by name and version, in devpi's index, within the caller's transaction."""
    from devpi_server.filestore import Digests

    for (name, version), group in groupby(files, key=lambda file: (file.name, file.version)):
        release = list(group)
        stage.set_versiondata(versiondata(release, store))
        for file in release:
            stage.store_releasefile(
                name, version, file.filename, _HardLink(store.path(file.sha256)),
                hashes=Digests(sha256=file.sha256), last_modified=_TIME,
            )  # fmt: skip


class _HardLink(io.BytesIO):
    """What devpi's storage takes for a file that it may link to instead of copying."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.devpi_srcpath = str(path)


def versiondata(release: Sequence[Stocked], store: Store) -> dict[str, Any]:
    """Give what devpi notes of a release, from the metadata of its first file that has some."""
    read = (shown(store.path(file.sha256), file.filename) for file in release)
    data: dict[str, Any] = dict(next(filter(None, read), {}))
    requires_python = next((file.requires_python for file in release if file.requires_python), None)
    if requires_python:
        data["requires_python"] = requires_python
    return {"name": release[0].name, "version": release[0].version, **data}


@cache
def shown(path: Path, filename: str) -> Mapping[str, Any]:
    """Give what is noted of a file's metadata; what lies at a path of the store stays the same."""
    found: Mapping[str, Any] = metadata.read(path, filename) or {}
    return {key: found[key] for key in _SHOWN if key in found}
