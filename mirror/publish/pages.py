"""Pages of a simple repository: PEP 503 HTML and PEP 691 JSON; pure.

They tell core metadata (PEP 658 and 714), yanked files (PEP 592) and upload times (PEP 700).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any
from urllib.parse import quote

from mirror.snapshot import Stocked

HTML = "index.html"
JSON = "index.json"
METADATA = ".metadata"
_META = {"api-version": "1.1"}


def file_path(file: Stocked) -> str:
    """Give the place of a file below the tree."""
    return f"files/{file.sha256[:2]}/{file.sha256[2:]}/{file.filename}"


def pages(files: Iterable[Stocked], metadata: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Give every page, by its path below the tree, of files that are sorted by name and version.

    `metadata` has the sha256 of the core metadata of those files, by their own, that have some.
    """
    names = []
    for name, group in groupby(files, key=lambda file: file.name):
        names.append(name)
        project = list(group)
        yield f"simple/{name}/{HTML}", _html(name, [_link(file, metadata) for file in project])
        yield f"simple/{name}/{JSON}", _json(_project(name, project, metadata))
    yield f"simple/{HTML}", _html("Simple index", [f'<a href="{quote(name)}/">{name}</a>' for name in names])
    yield f"simple/{JSON}", _json({"projects": [{"name": name} for name in names]})


def _project(name: str, files: list[Stocked], metadata: Mapping[str, str]) -> dict[str, Any]:
    versions = list(dict.fromkeys(file.version for file in files))
    return {"name": name, "versions": versions, "files": [_entry(file, metadata) for file in files]}


def _entry(file: Stocked, metadata: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": _url(file),
        "hashes": {"sha256": file.sha256},
        "size": file.size,
    }
    if file.requires_python:
        entry["requires-python"] = file.requires_python
    if file.yanked:
        entry["yanked"] = file.yanked
    if file.upload_time:
        entry["upload-time"] = file.upload_time
    if file.sha256 in metadata:
        entry["core-metadata"] = {"sha256": metadata[file.sha256]}
    return entry


def _link(file: Stocked, metadata: Mapping[str, str]) -> str:
    attributes = f'href="{_url(file)}#sha256={file.sha256}"'
    if file.requires_python:
        attributes += f' data-requires-python="{escape(file.requires_python)}"'
    if file.yanked:
        reason = "" if file.yanked is True else escape(file.yanked)
        attributes += f' data-yanked="{reason}"'
    if file.sha256 in metadata:
        attributes += f' data-core-metadata="sha256={metadata[file.sha256]}"'
    return f"<a {attributes}>{escape(file.filename)}</a>"


def _url(file: Stocked) -> str:
    """Give the way from a project's page; a relative one works at any address and in any folder."""
    return f"../../{quote(file_path(file))}"


def _html(title: str, links: Iterable[str]) -> bytes:
    lines = (
        "<!DOCTYPE html>",
        '<html><head><meta charset="utf-8"><meta name="pypi:repository-version" content="1.1">',
        f"<title>{escape(title)}</title></head><body>",
        *(f"{link}<br>" for link in links),
        "</body></html>\n",
    )
    return "\n".join(lines).encode()


def _json(page: dict[str, Any]) -> bytes:
    return json.dumps({"meta": _META, **page}, separators=(",", ":"), sort_keys=True).encode()
