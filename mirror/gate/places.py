"""The upstreams of the user's own clients, which policies mean by a word and never by name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from lockfiles.urls import without_credentials
from mirror.config import Config
from mirror.errors import StoreError
from mirror.layout import Layout

_NPM_SECONDS = 30


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

    return pip_settings(config.upstreams).indexes


def _npm(config: Config) -> tuple[str, ...]:
    """Ask npm; where there is none, nobody needs its index."""
    try:
        asked = subprocess.run(
            ["npm", "config", "get", "registry"],
            capture_output=True, text=True, check=False, timeout=_NPM_SECONDS, cwd=config.file.parent,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ()
    return (asked.stdout.strip(),) if asked.returncode == 0 else ()


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
