"""Pages of a simple repository as data: PEP 691 JSON and PEP 503 HTML, pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from packaging.utils import (
    InvalidSdistFilename,
    canonicalize_name,
    parse_sdist_filename,
)
from packaging.version import InvalidVersion, Version

from lockfiles.model import Artifact, Digest
from lockfiles.moments import moment

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
_WHOLE = ("https://", "http://")
_REMOTE = ("http", "https")
_LINK = re.compile(rb"(?i)(?=<a\s)")
ACCEPT = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


Wanted = Callable[[str], bool]


def parse_page(
    content_type: str,
    body: bytes,
    url: str,
    wanted: Wanted = lambda filename: True,
    digests: Iterable[Digest] = (),
) -> tuple[Artifact, ...]:
    """Read the files of a project's page, found at `url`, whose names are wanted.

    Where `digests` are given, files that have none of them are passed over: to look at the thousands
    of others would take most of a cold run's CPU. A page that came over the network cannot name files
    of this machine. Raises ValueError when it is not a page.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        files = _from_json(body, url, wanted, _spelled(digests))
    elif kind in ("text/html", "application/vnd.pypi.simple.v1+html", ""):
        files = _from_html(_narrow(body, _spelled(digests)), url, wanted)
    else:
        raise ValueError(f"{kind} is not a page of a package index")
    schemes = _REMOTE if urlsplit(url).scheme in _REMOTE else ("file", *_REMOTE)
    return tuple(file for file in files if urlsplit(file.url or "").scheme in schemes)


def _spelled(digests: Iterable[Digest]) -> frozenset[str]:
    """Give the digests in the two ways that a page may write them."""
    return frozenset(value for digest in digests for value in (digest.value, digest.value.upper()))


def _narrow(body: bytes, digests: Collection[str]) -> bytes:
    """Cut an HTML page down to the links that carry one of the digests, if there are any."""
    if not digests:
        return body
    head, *links = _LINK.split(body)
    values = [value.encode() for value in digests]
    return head + b"".join(link for link in links if any(value in link for value in values))


def file_version(filename: str, project: str) -> Version | None:
    """Give the version in a wheel's or sdist's name; None when it is not a file of `project`."""
    try:
        if filename.endswith(".whl"):
            name, version = _of_wheel(*filename.split("-")[:2])
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidSdistFilename, InvalidVersion, TypeError):
        return None
    return version if name == canonicalize_name(project) else None


@lru_cache(maxsize=4096)
def _of_wheel(name: str, version: str) -> tuple[str, Version]:
    """Read the start of a wheel's name; a page repeats it for every platform."""
    return canonicalize_name(name), Version(version)


class _Hashed(msgspec.Struct, gc=False):
    """An entry of a page, of which only its digests are looked at."""

    hashes: dict[str, str] = {}


class _Hashes(msgspec.Struct):
    files: list[_Hashed]


class _Entries(msgspec.Struct):
    """A page's entries, each as it stands there."""

    files: list[msgspec.Raw]


_HASHES, _ENTRIES = msgspec.json.Decoder(_Hashes), msgspec.json.Decoder(_Entries)


def _from_json(body: bytes, url: str, wanted: Wanted, values: frozenset[str]) -> Iterator[Artifact]:
    try:
        for file in _with_digests(body, values) if values else json.loads(body)["files"]:
            if _printable(file["filename"]) and _printable(file["url"]) and wanted(file["filename"]):
                yield _artifact(file["filename"], _joined(url, file["url"]), file)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not PEP 691: {type(error).__name__} {error}") from error


def _joined(base: str, url: str) -> str:
    """Join two URLs; most indexes name whole ones, of which there is nothing to be read."""
    return url if url.startswith(_WHOLE) else urljoin(base, url)


def _with_digests(body: bytes, values: frozenset[str]) -> list[Any]:
    """Read only the entries that have one of these digests: most of a page are other versions."""
    try:
        hashed = _HASHES.decode(body).files
        named = [index for index, file in enumerate(hashed) if not values.isdisjoint(file.hashes.values())]
        entries = _ENTRIES.decode(body).files if named else []
    except msgspec.DecodeError:  # it is stricter than json, about half a pair of surrogates for one
        files = json.loads(body)["files"]
        return [file for file in files if any(value in values for _, value in _hashes(file))]
    return [json.loads(bytes(entries[index])) for index in named]


def _artifact(filename: str, url: str, file: dict[str, Any]) -> Artifact:
    size = file.get("size")
    return Artifact(
        filename=filename,
        url=url,
        digests=_digests(_hashes(file)),
        size=size if isinstance(size, int) and size >= 0 else None,
        requires_python=_printable(file.get("requires-python")),
        yanked=_yanked(file.get("yanked")),
        upload_time=moment(file.get("upload-time")),
    )


def _hashes(file: dict[str, Any]) -> list[tuple[str, str]]:
    """Give a file's hashes that are texts; where an index sends anything else, it tells none."""
    told = file.get("hashes")
    items = told.items() if isinstance(told, dict) else ()
    return [(algorithm, value) for algorithm, value in items if isinstance(value, str)]


def _printable(value: Any) -> str | None:
    """Give a text that is one; an index may send anything."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _yanked(value: Any) -> bool | str:
    """Give the reason why a file was yanked, in one line; True where it was for none (PEP 592)."""
    return _printable(" ".join(value.split())) or bool(value) if isinstance(value, str) else bool(value)


def _digests(items: Iterable[tuple[str, str]]) -> tuple[Digest, ...]:
    """Keep the digests that can be checked; an index may add others."""
    found = []
    for algorithm, value in items:
        try:
            found.append(Digest.parse(f"{algorithm}:{value}"))
        except ValueError:
            continue
    return tuple(sorted(found))


def _from_html(body: bytes, url: str, wanted: Wanted) -> Iterator[Artifact]:
    page = _Anchors()
    page.feed(body.decode("utf-8", errors="replace"))
    base = urljoin(url, page.base) if page.base else url
    for attributes in page.anchors:
        reference, _, fragment = (attributes.get("href") or "").partition("#")
        filename = unquote(reference.partition("?")[0].rpartition("/")[2])
        if not wanted(filename):
            continue
        algorithm, separator, value = fragment.partition("=")
        yield Artifact(
            filename=filename,
            url=urljoin(base, reference),
            digests=_digests([(algorithm, value)] if separator else []),
            requires_python=_printable(attributes.get("data-requires-python")),
            yanked="data-yanked" in attributes and (_yanked(attributes["data-yanked"]) or True),
        )


class _Anchors(HTMLParser):
    """Collects `<a>` and the first `<base href>`."""

    def __init__(self) -> None:
        super().__init__()
        self.base: str | None = None
        self.anchors: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            self.anchors.append(attributes)
        elif tag == "base" and self.base is None:
            self.base = attributes.get("href")
