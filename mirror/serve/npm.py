"""The npm registry below /npm/: packuments with the address that the client itself uses, and tarballs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from aiohttp import web

from lockfiles.formats.node import check_npm_name
from lockfiles.urls import check_filename
from mirror.publish import npm
from mirror.serve.index import Index
from mirror.serve.outside import FORWARDED, outside_url
from mirror.upstream.npm import ABBREVIATED

_VARY = ", ".join(("Accept", "Host", *FORWARDED))
_FRESH = {"Cache-Control": "no-cache", "Vary": _VARY, "Content-Type": "application/json"}
_FOREVER = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Content-Type": "application/octet-stream",
}


class NpmRegistry:
    """Answers from the current tree's `npm/`. Whether clients say `@scope/name` or `@scope%2fname`."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def routes(self) -> list[web.RouteDef]:
        """Give what to answer, and how."""
        scoped = r"/npm/{scope:@[^/]+}/{name}"
        return [
            web.get("/npm/{name}", self._packument),
            web.get(scoped, self._packument),
            web.get("/npm/{name}/-/{file}", self._tarball),
            web.get(f"{scoped}/-/{{file}}", self._tarball),
        ]

    async def _packument(self, request: web.Request) -> web.StreamResponse:
        folder, name = self._folder(request)
        page = npm.ABBREVIATED if ABBREVIATED in request.headers.get("Accept", "") else npm.FULL
        try:
            content = (folder / page).read_bytes()
        except OSError:
            self._index.requests["missing"] += 1
            raise web.HTTPNotFound(
                text=f"{name} is not stocked: only what the locks name is here\n"
            ) from None
        self._index.requests["page"] += 1
        body = npm.moved(content, outside_url(request))
        headers = {**_FRESH, "ETag": f'"{sha256(body).hexdigest()[:32]}"'}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    async def _tarball(self, request: web.Request) -> web.StreamResponse:
        folder, _ = self._folder(request)
        try:
            check_filename(request.match_info["file"])
        except ValueError:
            raise web.HTTPNotFound from None
        self._index.requests["file"] += 1
        return web.FileResponse(folder / "-" / request.match_info["file"], headers=_FOREVER)

    def _folder(self, request: web.Request) -> tuple[Path, str]:
        """Give a package's folder and name. Raises HTTPNotFound where no package can have the name."""
        found = request.match_info
        name = "/".join(filter(None, (found.get("scope"), found["name"])))
        tree = self._index.tree()
        try:
            check_npm_name(name)
        except ValueError:
            tree = None
        if tree is None:
            raise web.HTTPNotFound(text="there is no such package\n")
        return tree / npm.FOLDER / name, name
