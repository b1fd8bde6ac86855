"""The upstreams of the user's own clients, which policies mean by a word and never by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from lockfiles.urls import without_credentials
from mirror.config import Config
from mirror.errors import StoreError
from mirror.layout import Layout


@dataclass(frozen=True, slots=True)
class Upstreams(Mapping[str, tuple[str, ...]]):
    """`pip` and `npm` are the indexes of those clients, `files` the hosts that held files came from.

    Each is asked for only when a policy says the word, for asking starts a client.
    """

    config: Config

    def __getitem__(self, word: str) -> tuple[str, ...]:
        return _usable(_SOURCES[word](self.config))

    def __iter__(self) -> Iterator[str]:
        return iter(_SOURCES)

    def __len__(self) -> int:
        return len(_SOURCES)


def _pip(config: Config) -> tuple[str, ...]:
    from mirror.upstream.settings import pip_settings

    found = pip_settings(config.upstreams)
    return (*found.indexes, *(pinned.index for pinned in found.pinned))


def _npm(config: Config) -> tuple[str, ...]:
    from mirror.upstream.npm_settings import npm_settings

    found = npm_settings(config.upstreams)
    return (*found.indexes, *(scope.index for scope in found.pinned))


def _files(config: Config) -> tuple[str, ...]:
    try:
        snapshot = Layout(config.root).snapshots.current()
    except StoreError:
        return ()
    urls = {urlsplit(artifact.url) for artifact in snapshot.artifacts} if snapshot else set()
    return tuple(f"{url.scheme}://{url.netloc}/" for url in urls)


_SOURCES: Mapping[str, Callable[[Config], tuple[str, ...]]] = {"pip": _pip, "npm": _npm, "files": _files}


def _usable(urls: tuple[str, ...]) -> tuple[str, ...]:
    found = {without_credentials(url) for url in urls if urlsplit(url).scheme in ("http", "https")}
    return tuple(sorted(found))
