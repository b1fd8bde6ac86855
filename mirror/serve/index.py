"""The Python index as clients ask for it: pages from memory, files by sendfile."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from packaging.utils import canonicalize_name

from lockfiles.urls import check_filename
from mirror.publish.pages import HTML, JSON, METADATA
from mirror.publish.simple import CURRENT
from mirror.serve.negotiate import JSON_TYPE, content_type, page_of

_MISSING_AT_MOST = 1000
# A page is asked for again each time, and costs a 304; a file never changes under its digest.
_FRESH = {"Cache-Control": "no-cache", "Vary": "Accept"}
_FOREVER = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Type": "application/octet-stream",
}
_SMALL = 256 << 10
_CONDITIONS = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")

InHouse = Callable[[str], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page."""

    body: bytes
    etag: str


class Index:
    """The current tree below one folder; each page of a tree is read once.

    Redirects are relative: a proxy in front may show all of it below a folder of its own.
    `in_house` gives the path to go to for a project that the tree lacks, where there is one.
    """

    def __init__(self, tree: Path, in_house: InHouse | None = None) -> None:
        self._link = tree / CURRENT
        self._in_house = in_house
        self._tree: Path | None = None
        self._pages: dict[str, Page] = {}
        self.requests: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()

    def routes(self) -> list[web.RouteDef]:
        """Give what to answer, and how."""
        page = rf"{{page:{HTML}|{JSON}|}}".replace(".", r"\.")
        return [
            web.get(f"/simple/{page}", self._page),
            web.get(f"/simple/{{project}}/{page}", self._page),
            web.get("/simple/{project}", self._slash),
            web.get(r"/files/{a:[0-9a-f]{2}}/{b:[0-9a-f]{62}}/{name}", self._file),
        ]

    def tree(self) -> Path | None:
        """Give the current tree, or None before the first snapshot."""
        try:
            tree = self._link.parent / self._link.readlink()
        except OSError:
            return None
        if tree != self._tree:
            self._tree, self._pages = tree, {}
        return tree

    async def _page(self, request: web.Request) -> web.StreamResponse:
        project, suffix = request.match_info.get("project", ""), request.match_info["page"]
        if project != canonicalize_name(project):
            raise web.HTTPMovedPermanently(f"../{canonicalize_name(project)}/{suffix}")
        kind = content_type(request.headers.get("Accept", ""))
        if suffix:
            kind = JSON_TYPE if suffix == JSON else "text/html"
        page = self._read(f"simple/{project}/{page_of(kind)}" if project else f"simple/{page_of(kind)}")
        if page is None:
            if project and self._in_house and (place := await self._in_house(project)):
                raise web.HTTPFound(f"../..{place}")
            self._remember_missing(project)
            raise web.HTTPNotFound(text=f"{project or 'the index'} is not stocked\n")
        self.requests["page"] += 1
        headers = {**_FRESH, "ETag": page.etag}
        if request.headers.get("If-None-Match") == page.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=page.body, headers={**headers, "Content-Type": kind})

    def _read(self, path: str) -> Page | None:
        tree = self.tree()
        if tree is None:
            return None
        page = self._pages.get(path)
        if page is None:
            try:
                body = (tree / path).read_bytes()
            except (OSError, ValueError):
                return None
            page = self._pages[path] = Page(body, f'"{sha256(body).hexdigest()[:32]}"')
        return page

    def _remember_missing(self, project: str) -> None:
        """Count what was asked for in vain, up to a limit: any client can ask for anything."""
        if project in self.missing or len(self.missing) < _MISSING_AT_MOST:
            self.missing[project] += 1
        self.requests["missing"] += 1

    async def _slash(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPMovedPermanently(f"./{canonicalize_name(request.match_info['project'])}/")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        tree, found = self.tree(), request.match_info
        try:
            check_filename(found["name"])
        except ValueError:
            raise web.HTTPNotFound from None
        if tree is None:
            raise web.HTTPNotFound
        self.requests["metadata" if found["name"].endswith(METADATA) else "file"] += 1
        path = tree / "files" / found["a"] / found["b"] / found["name"]
        whole = request.method == "GET" and not any(name in request.headers for name in _CONDITIONS)
        return (_small(path) if whole else None) or web.FileResponse(path, headers=_FOREVER)


def _small(path: Path) -> web.Response | None:
    """Read a small file at once: threads and sendfile cost several times as much as that."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_size > _SMALL:
                return None
            response = web.Response(body=file.read(), headers=_FOREVER)
    except OSError:
        return None
    response.headers["Accept-Ranges"] = "bytes"
    response.etag = f"{facts.st_mtime_ns:x}-{facts.st_size:x}"  # as FileResponse makes it
    response.last_modified = facts.st_mtime
    return response
