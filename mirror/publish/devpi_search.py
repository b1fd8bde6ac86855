"""What devpi-web's search finds: packages that clients are shown, looked for at the time of asking.

devpi-web's own backend keeps an index on the disk. It would grow by a whole snapshot with each one, find
every package once for each snapshot, and never forget those of removed ones.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from html import escape
from math import ceil
from typing import Any

from devpi_common.metadata import get_latest_version
from devpi_web.config import get_pluginmanager
from devpi_web.null_index import Index
from pluggy import HookimplMarker

from mirror.publish.devpi_state import STABLE, USER

_ON_A_PAGE = 20
_HELP = "All words have to be part of a package's name or summary."


class Search(Index):  # type: ignore[misc]  # untyped there
    """Finds by names and summaries; the rest of the interface is that of devpi-web's empty backend."""

    def runtime_setup(self, xom: Any) -> None:
        """Take the server to look into."""
        self._xom = xom

    def query_projects(self, querystring: str, page: int | None = 1) -> dict[str, Any]:
        """Give a page of what is found, or all of it, in devpi-web's form. The caller has a transaction."""
        words = querystring.casefold().split()
        found = sorted(_found(self._xom.model, words)) if words else []
        pages = max(1, ceil(len(found) / _ON_A_PAGE))
        number = min(max(1, page or 1), pages)
        shown = found if page is None else found[(number - 1) * _ON_A_PAGE : number * _ON_A_PAGE]
        info = {
            "found": len(shown), "total": len(found), "pagecount": pages, "pagenum": number,
            "collapsed_counts": Counter(),
        }  # fmt: skip
        return {"items": [_item(*place) for _, *place in shown], "info": info}

    def highlight(self, text: str, _words: object) -> str:
        """Give a summary as HTML."""
        return escape(text)

    def get_query_parser_html_help(self) -> list[str]:
        """Tell how to search."""
        return [_HELP]


def _found(model: Any, words: list[str]) -> Iterator[tuple[bool, str, str, str, str]]:
    """Give index, name and version of what has all words, first those that have them in their names."""
    for stage in _shown(model):
        for name in stage.list_projects_perstage():
            version = get_latest_version(stage.list_versions_perstage(name))  # type: ignore[no-untyped-call]  # untyped there
            if not version:
                continue
            summary = stage.get_versiondata_perstage(name, version).get("summary") or ""
            text = f"{name} {summary}".casefold()
            if all(word in text for word in words):
                yield not all(word in name for word in words), name, stage.user.name, stage.index, version


def _shown(model: Any) -> Iterator[Any]:
    """Give the indexes that people look into: theirs, and the snapshot's that the stable one shows."""
    shown = model.getstage(USER, STABLE).ixconfig["bases"]
    for user in model.get_userlist():
        for index in user.get()["indexes"]:
            if user.name != USER or f"{USER}/{index}" in shown:
                stage = model.getstage(user.name, index)
                if stage is not None and stage.ixconfig["type"] == "stage":
                    yield stage


def _item(name: str, user: str, index: str, version: str) -> dict[str, Any]:
    data = {
        "path": f"/{user}/{index}/{name}", "name": name, "user": user, "index": index, "version": version,
        "type": "project",
    }  # fmt: skip
    return {"data": data, "sub_hits": [{"data": {"type": "summary"}, "words": frozenset()}]}


@HookimplMarker("devpiweb")
def devpiweb_indexer_backend() -> dict[str, Any]:
    """Offer this to devpi-web."""
    return {"indexer": Search, "name": "lockstock", "description": "What is shown, without an index"}


@HookimplMarker("devpiserver")
def devpiserver_cmdline_run(xom: Any) -> None:
    """Make it known to devpi-web, which is asked for its pages after this."""
    get_pluginmanager(xom.config).register(sys.modules[__name__])
