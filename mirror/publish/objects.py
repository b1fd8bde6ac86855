"""A static tree as objects: their keys, their headers, and the pages of the time between; pure.

Clients ask for `simple/NAME/` and `npm/NAME`, where a file server finds an index page of a folder.
A store has no folders, so these keys hold the page, too, and clients need nothing in front of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mirror.publish import npm
from mirror.publish.pages import HTML, JSON
from mirror.upstream.simple import JSON_TYPE

FOLDERS = ("simple/", "files/", f"{npm.FOLDER}/")
_FOREVER = "public, max-age=31536000, immutable"
_FRESH = "no-cache"  # asked for again each time, which costs a 304
_HTML_TYPE = "text/html; charset=utf-8"
_LINK = re.compile(r"<a [^>]*>([^<]*)</a>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An object that changes with the snapshot."""

    key: str
    body: bytes
    content_type: str
    cache_control: str = _FRESH


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file that never changes under its name. `size` is in bytes."""

    key: str
    path: Path
    size: int
    content_type: str = "application/octet-stream"
    cache_control: str = _FOREVER


def is_page(path: str) -> bool:
    """Say whether this file of a tree changes with the snapshot; `path` is below the tree."""
    return path.startswith(("simple/", f"{npm.FOLDER}/")) and "/-/" not in path


def pages_of(path: str, body: bytes) -> tuple[Page, ...]:
    """Give the objects that a page of a tree is: under its own name, and under its folder's."""
    kind = _content_type(path)
    keys = [path]
    if path.endswith(f"/{HTML}"):
        folder = path.removesuffix(HTML)
        keys.append(folder if folder.startswith("simple/") else folder.rstrip("/"))
    return tuple(Page(key=key, body=body, content_type=kind) for key in keys)


def _content_type(path: str) -> str:
    if path.startswith(f"{npm.FOLDER}/"):
        return "application/json"  # of index.html, too
    return JSON_TYPE if path.endswith(f"/{JSON}") else _HTML_TYPE


def named(body: bytes) -> set[str]:
    """Give the keys of the files that a page of JSON names; of none of ours, none."""
    try:
        page = json.loads(body)
        if "dist-tags" in page:
            urls = (version["dist"]["tarball"] for version in page["versions"].values())
            return {f"{npm.FOLDER}/{page['name']}/-/{unquote(url.rpartition('/')[2])}" for url in urls}
        return {unquote(file["url"]).removeprefix("../../") for file in page.get("files", ())}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def widened(page: Page, old: bytes) -> bytes:
    """Give a page that shows all of the new one, and what else the old one does.

    While every page is one of these, old or new, a client sees all of the old snapshot, or of the
    new one. An old page that is none of ours adds nothing.
    """
    try:
        if page.content_type == _HTML_TYPE:
            return _wider_html(page.body.decode(), old.decode()).encode()
        new = json.loads(page.body)
        return json.dumps(_wider(new, json.loads(old)), separators=(",", ":"), sort_keys=True).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return page.body


def _wider_html(new: str, old: str) -> str:
    shown = set(_LINK.findall(new))
    lines = (line for line in old.splitlines() if (link := _LINK.search(line)) and link[1] not in shown)
    return new.replace("</body>", "".join(f"{line}\n" for line in lines) + "</body>")


def _wider(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Join two pages of JSON: an index, a project, or a packument, whose tags stay the old ones."""
    if "dist-tags" in new:
        return {**new, "versions": {**old["versions"], **new["versions"]}, "dist-tags": old["dist-tags"]}
    if "projects" in new:
        return {**new, "projects": _joined(new["projects"], old["projects"], "name")}
    if "files" in new:
        files = _joined(new["files"], old["files"], "filename")
        return {**new, "files": files, "versions": list(dict.fromkeys(new["versions"] + old["versions"]))}
    return new


def _joined(new: list[dict[str, Any]], old: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    shown = {entry[key] for entry in new}
    return [*new, *(entry for entry in old if entry[key] not in shown)]
