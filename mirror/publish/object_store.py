"""A snapshot in an S3-compatible object store: the static tree as objects, without its links.

A store switches one object at a time, so a snapshot comes in steps, and a client that reads between
any two of them finds all of the old snapshot or all of the new one: first its files; then every page
that changes in a form that shows both; then the pages as they are to be; and last what neither they
nor the pages before them name is deleted. Steps that were done before are not done again, whoever
was killed in between. What lies there is told by listing it, and a note in the mirror's folder says
that nothing is to be done at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, md5
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.destinations import ObjectStoreSpec
from mirror.layout import Layout
from mirror.publish import npm
from mirror.publish.links import TEMPORARY
from mirror.publish.objects import Content, Page, is_page, named, pages_of, widened
from mirror.publish.pages import JSON, METADATA
from mirror.store import write_atomically

if TYPE_CHECKING:
    from mirror.publish.bucket import Bucket, Held

NOTE = "object-store.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What publishing did: files and their bytes, pages, deleted objects."""

    files: int
    size: int
    pages: int
    deleted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """What is to lie in the store."""

    contents: tuple[Content, ...]
    pages: tuple[Page, ...]

    @property
    def keys(self) -> set[str]:
        return {content.key for content in self.contents} | {page.key for page in self.pages}


def publish(
    layout: Layout, name: str, spec: ObjectStoreSpec, begin: Callable[[int, int], None] | None = None
) -> Sent | None:
    """Bring the tree of the snapshot `name` to the store; give None where it was noted to be there.

    The tree is written and the caller holds the mirror. `begin` is told how many files are sent and
    how many bytes they have, before they are. Raises ObjectStoreError; run again, it goes on.
    """
    note = json.dumps({"snapshot": name, **asdict(spec)}, sort_keys=True).encode()
    path = layout.root / NOTE
    if path.is_file() and path.read_bytes() == note:
        return None
    path.unlink(missing_ok=True)
    from mirror.publish.bucket import Bucket  # boto3 takes long to import

    sent = _bring(Bucket(spec), _read(layout.tree / name, spec.url), begin)
    write_atomically(path, note)
    return sent


def forget(layout: Layout) -> None:
    """Let the next publishing look what is there, and mend it."""
    (layout.root / NOTE).unlink(missing_ok=True)


def shown(spec: ObjectStoreSpec) -> set[str] | None:
    """Give the names of the Python projects that the store shows, or None where it shows no index.

    Raises ObjectStoreError.
    """
    from mirror.publish.bucket import Bucket

    body = Bucket(spec).find(f"simple/{JSON}")
    try:
        return None if body is None else {project["name"] for project in json.loads(body)["projects"]}
    except (ValueError, KeyError, TypeError):
        return None


def _read(tree: Path, url: str | None) -> _Tree:
    """Read a tree; with `url`, npm's pages name it as their place."""
    contents: list[Content] = []
    pages: list[Page] = []
    for path in _files(tree):
        key = path.relative_to(tree).as_posix()
        if is_page(key):
            body = path.read_bytes()
            pages += pages_of(key, npm.moved(body, url) if url else body)
        else:
            contents.append(Content(key=key, path=path, size=path.stat().st_size))
    return _Tree(contents=tuple(contents), pages=tuple(pages))


def _files(tree: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(tree):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if not name.endswith(TEMPORARY))


def _bring(bucket: Bucket, tree: _Tree, begin: Callable[[int, int], None] | None) -> Sent:
    bucket.sweep()
    there = bucket.listing()
    missing = [content for content in tree.contents if _differs(content, there.get(content.key))]
    size = sum(content.size for content in missing)
    if begin:
        begin(len(missing), size)
    bucket.upload(missing)
    changed = [page for page in tree.pages if _differs(page, there.get(page.key))]
    gone = there.keys() - tree.keys
    old = bucket.read({page.key for page in changed if page.key in there} | set(filter(_is_json, gone)))
    wide = [replace(page, body=widened(page, old[page.key])) if page.key in old else page for page in changed]
    bucket.write(wide)
    bucket.write(page for page, before in zip(changed, wide, strict=True) if page.body != before.body)
    # A file that the tree lost is still named by its pages: it stays until `mirror publish` mends the tree.
    surplus = gone - _named(old) - _named({page.key: page.body for page in tree.pages})
    bucket.remove(filter(is_page, surplus))
    bucket.remove(key for key in surplus if not is_page(key))
    return Sent(files=len(missing), size=size, pages=len(changed), deleted=len(surplus))


def _is_json(key: str) -> bool:
    return is_page(key) and key.endswith(f"/{JSON}")


def _differs(wanted: Content | Page, held: Held | None) -> bool:
    """Say whether an object has to be sent.

    The key of a Python file tells its digest, that of a tarball does not. An etag is the md5 of what
    was sent in one piece, but for some stores that encrypt: these get pages and tarballs again.
    """
    if held is None:
        return True
    if isinstance(wanted, Page):
        return held.etag != md5(wanted.body, usedforsecurity=False).hexdigest()
    if wanted.size != held.size or not wanted.key.startswith(npm.FOLDER) or "-" in held.etag:
        return wanted.size != held.size
    with wanted.path.open("rb") as file:
        return held.etag != file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()


def _named(old: Mapping[str, bytes]) -> set[str]:
    """Give the files that clients, who read these pages right before, may go on to fetch."""
    pages: Iterable[bytes] = (body for key, body in old.items() if _is_json(key))
    files = {key for body in pages for key in named(body)}
    return files | {f"{key}{METADATA}" for key in files}
