"""Writes a lock anew with other file URLs and leaves every other byte as it was.

uv and pip fetch from the URLs that a lock carries, whatever index they are told to use; so do PDM with
`static_urls`, npm, Yarn 1 and Bun, and every tool with a package that is locked to one URL. So a lock that is
to work behind a mirror has to name the mirror.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lockfiles.errors import LockError
from lockfiles.formats import detect, parse
from lockfiles.formats.fields import Read
from lockfiles.model import Artifact, IndexSource, UrlSource

_QUOTED = re.compile(r"""https?://[^"'\\\s]+""")
_BARE_END = re.compile(r"[#,;{}]")  # of what stands in no quotes: a fragment, a marker, what YAML encloses
_UNSAFE = re.compile(r"""["'\\\s,;{}]""")


def rewrite(
    filename: str, text: str, url_for: Callable[[Artifact], str | None], read: Read | None = None
) -> str:
    """Give the text of a lock that carries URLs with those that `url_for` gives for its files.

    Where that gives None the URL stays. So does the index that packages are said to come from: `uv sync
    --locked` wants it to be the one that it is configured with. `read` is that of `parse`. Raises LockError
    for locks without URLs.
    """
    packages = parse(filename, text, read).packages
    artifacts = [artifact for package in packages for artifact in package.artifacts]
    fetched = any(isinstance(package.source, (IndexSource, UrlSource)) for package in packages)
    if fetched and not any(artifact.url for artifact in artifacts):
        raise LockError(
            f"{detect(filename, text)} carries no file URLs that would have to change",
            where=filename,
            hint="tell its tool the mirror's index instead",
        )
    urls = {a.url: _checked(filename, url) for a in artifacts if a.url and (url := url_for(a)) is not None}

    def exchanged(match: re.Match[str]) -> str:
        quoted = match[0]
        bare = _BARE_END.split(quoted, maxsplit=1)[0]
        return urls.get(quoted) or urls.get(bare, bare) + quoted[len(bare) :]

    return _QUOTED.sub(exchanged, text)


def _checked(filename: str, url: str) -> str:
    """Refuse what would end the string that it is put into."""
    if _UNSAFE.search(url) or not url.isprintable():
        raise LockError("a URL to write has characters that no URL has", where=filename)
    return url
