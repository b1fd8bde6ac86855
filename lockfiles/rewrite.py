"""Writes a lock anew with other file URLs and leaves every other byte as it was.

uv and pip fetch from the URLs that a lock carries, whatever index they are told to use; so do npm,
Yarn 1 and Bun. So a lock that is to work behind a mirror has to name the mirror.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lockfiles.errors import LockError
from lockfiles.formats import detect, parse
from lockfiles.model import Artifact

_TOML = ("uv.lock", "pylock.toml")
_TOML_URL = re.compile(r"""\b(url\s*=\s*)(?:"([^"\\\n]*)"|'([^'\n]*)')""")
_QUOTED = ("package-lock.json", "yarn.lock", "bun.lock")
_QUOTED_URL = re.compile(r'"(https?://[^"\\\s#]+)(#[^"\\\s]*)?"')
_UNSAFE = re.compile(r"""["'\\\s]""")


def rewrite(filename: str, text: str, url_for: Callable[[Artifact], str | None]) -> str:
    """Give the text of a lock that carries URLs with those that `url_for` gives for its files.

    Where that gives None the URL stays. So does the index that packages are said to come from: `uv sync
    --locked` wants it to be the one that it is configured with. Raises LockError for formats without URLs.
    """
    kind = detect(filename, text)
    if kind not in (*_TOML, *_QUOTED):
        raise LockError(
            f"{kind} carries no file URLs that would have to change",
            where=filename,
            hint="tell its tool the mirror's index instead",
        )
    artifacts = (artifact for package in parse(filename, text).packages for artifact in package.artifacts)
    urls = {a.url: _checked(filename, url) for a in artifacts if a.url and (url := url_for(a)) is not None}

    def replaced(match: re.Match[str]) -> str:
        new = urls.get(match[2] or match[3] or "")
        return match[0] if new is None else f'{match[1]}"{new}"'

    def exchanged(match: re.Match[str]) -> str:
        new = urls.get(match[1])
        return match[0] if new is None else f'"{new}{match[2] or ""}"'

    return _QUOTED_URL.sub(exchanged, text) if kind in _QUOTED else _TOML_URL.sub(replaced, text)


def _checked(filename: str, url: str) -> str:
    """Refuse what would end the string that it is put into."""
    if _UNSAFE.search(url) or not url.isprintable():
        raise LockError("a URL to write has characters that no URL has", where=filename)
    return url
