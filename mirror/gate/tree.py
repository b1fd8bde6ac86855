"""Finds the file of a static tree that a path names, and never one outside of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from mirror.publish import npm

_JSON = "application/vnd.pypi.simple.v1+json"
_NPM_SHORT = "application/vnd.npm.install-v1+json"
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_SEGMENT = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file to serve. `told` is a page of npm's registry, which has to name the place it is served at."""

    path: Path
    size: int
    etag: str
    content_type: str
    told: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """A folder that was asked for without its slash."""

    location: str


def find(root: Path, target: str, accept: str) -> Found | Moved | None:
    """Give what a path of a request leads to below `root`, or None."""
    path = unquote(target.partition("?")[0], errors="replace")
    segments = path.removeprefix("/").removesuffix("/").split("/") if path != "/" else []
    if not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments):
        return None
    try:
        base = root.resolve(strict=True)
        place = base.joinpath(*segments).resolve(strict=True)
        if not place.is_relative_to(base):
            return None
        if base.joinpath(npm.FOLDER) in place.parents:
            return _of_npm(place, accept)
        if place.is_dir():
            return _index(place, accept) if path.endswith("/") else Moved(f"{target.partition('?')[0]}/")
        return _file(place) if place.is_file() and not path.endswith("/") else None
    except (OSError, ValueError, RuntimeError):
        return None


def _of_npm(place: Path, accept: str) -> Found | None:
    """Give a page of npm's registry, whose clients ask without a slash at the end, or a tarball."""
    short = place / npm.ABBREVIATED
    page = short if _NPM_SHORT in accept and short.is_file() else place / npm.FULL
    if page.is_file():
        return replace(_file(page), told=True)
    return _file(place) if place.is_file() and place.parent.name == "-" else None


def _index(folder: Path, accept: str) -> Found | None:
    names = ("index.json", "index.html") if _JSON in accept else ("index.html", "index.json")
    for name in names:
        if (folder / name).is_file():
            kind = _JSON if name == "index.json" and _JSON in accept else None
            return _file(folder / name, kind)
    return None


def _file(path: Path, content_type: str | None = None) -> Found:
    facts = path.stat()
    return Found(
        path=path,
        size=facts.st_size,
        etag=f'"{facts.st_size:x}-{facts.st_mtime_ns:x}-{facts.st_ino:x}"',
        content_type=content_type or _TYPES.get(path.suffix, "application/octet-stream"),
    )


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Give the first and the end (exclusive) byte of one range, or None where the whole is to be sent.

    Raises ValueError where no byte of the file is meant (RFC 9110, section 14).
    """
    match = _RANGE.fullmatch(header or "")
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        first, end = max(0, size - int(match[2])), size
    else:
        first, end = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
        if match[2] and int(match[2]) < first:
            return None
    if first >= end:
        raise ValueError("no such bytes")
    return first, end
