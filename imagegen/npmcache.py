"""The npm cache that an image carries, as entries: so `npm ci` finds all that is stocked without a network.

It has the form of cacache: content by its sha512, and an index entry for each packument's URL, by
which npm finds versions that a lock gives no place for. Both are laid down here, so no npm runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from imagegen.archive import Entry
from mirror.publish import npm
from mirror.snapshot import Stocked
from mirror.store import Store

_ROOT = "http://npm.invalid/"
REGISTRY = f"{_ROOT}{npm.FOLDER}/"
"""A name that no resolver knows (RFC 6761): what is not in the cache is nowhere."""

_KEY = "make-fetch-happen:request-cache:"
# npm takes an answer only for the very types that it asks for: it asks for the short form first.
_ACCEPTED = (
    "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*",
    "application/json",
)
_TIME = 1  # milliseconds; npm calls every entry without a time no entry


def tarball_entry(path: Path) -> Entry:
    """Give the place below the cache's folder of a tarball that lies at `path`."""
    return Entry(path=_content_path(_sha512(path)), content=path, packed=True)


def index_entries(files: Iterable[Stocked], store: Store) -> Iterator[Entry]:
    """Give what leads to these tarballs, which the store holds: packuments, and the index of both."""
    from mirror.publish.npm_tree import shown  # it brings what publishes for all ecosystems

    held = sorted(files, key=lambda file: file.sha256)
    digests = {file.sha256: _sha512(store.path(file.sha256)) for file in held}
    found = shown(held, store)
    for path, each in found.items():
        url = f"{_ROOT}{quote(path, safe='/@')}"
        yield _index(url, digests[each.file.sha256], each.file.size, ({},))
    for page, body in npm.pages((each.facts for each in found.values()), _ROOT):
        name = page.removeprefix(f"{npm.FOLDER}/").removesuffix(f"/{npm.FULL}")
        if page.endswith(f"/{npm.FULL}") and name.count("/") == name.count("@"):
            sha512 = hashlib.sha512(body).hexdigest()
            url = f"{REGISTRY}{name.replace('/', '%2f')}"
            yield _index(url, sha512, len(body), [{"accept": accept} for accept in _ACCEPTED])
            yield Entry(path=_content_path(sha512), content=body)


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def _index(url: str, sha512: str, size: int, asked: Iterable[Mapping[str, str]]) -> Entry:
    """Give the entry that leads from a URL, asked for with these headers, to content."""
    key = f"{_KEY}{url}"
    lines = (_index_line(key, url, headers, sha512, size) for headers in asked)
    place = hashlib.sha256(key.encode()).hexdigest()
    path = f"_cacache/index-v5/{place[:2]}/{place[2:4]}/{place[4:]}"
    return Entry(path=path, content="".join(lines).encode())


def _index_line(key: str, url: str, headers: Mapping[str, str], sha512: str, size: int) -> str:
    metadata = {
        "time": _TIME,
        "url": url,
        "reqHeaders": headers,
        "resHeaders": {"content-type": "application/json"},
        "options": {"compress": True},
    }
    integrity = f"sha512-{base64.b64encode(bytes.fromhex(sha512)).decode('ascii')}"
    entry = {"key": key, "integrity": integrity, "time": _TIME, "size": size, "metadata": metadata}
    text = json.dumps(entry, separators=(",", ":"))
    return f"\n{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()}\t{text}"


def _content_path(sha512: str) -> str:
    return f"_cacache/content-v2/sha512/{sha512[:2]}/{sha512[2:4]}/{sha512[4:]}"
