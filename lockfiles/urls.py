"""What is read from a URL without asking anybody: file name, digest, commit, and no secret."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Up to the last @ of the authority, as clients read it: a password may have one that is not escaped.
_CREDENTIALS = re.compile(r"(://)[^/?#\s]*@")
LONGEST_NAME = 240  # bytes: file systems take 255, with what stands behind a name for a while
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def redact(text: str) -> str:
    """Take the credentials out of every URL in `text`."""
    return _CREDENTIALS.sub(r"\1***@", text)


def without_credentials(url: str) -> str:
    """Give a URL as it may be published."""
    return _CREDENTIALS.sub(r"\1", url)


def filename_of(url: str) -> str:
    """Give the file name at the end of a URL's path. Raises ValueError where there is none."""
    address = url.partition("#")[0].partition("?")[0]
    scheme, separator, rest = address.partition("://")
    name = rest.partition("/")[2].rpartition("/")[2] if separator else scheme.rpartition("/")[2]
    name = unquote(name) if "%" in name else name
    check_filename(name)
    return name


def check_filename(name: str) -> None:
    """Refuse what cannot be the name of one file in a folder. Raises ValueError."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is not a file name")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{name[:40]!r}… is longer than the name of a file may be")


def split_fragment(url: str) -> tuple[str, dict[str, str]]:
    """Split `URL#egg=x&subdirectory=y` into the URL and what its fragment says."""
    address, _, fragment = url.partition("#")
    pairs = (part.partition("=") for part in fragment.split("&"))
    return address, {key: unquote(value) for key, equals, value in pairs if equals}


def split_commit(url: str) -> tuple[str, str]:
    """Split `https://host/repo.git@COMMIT`. Raises ValueError unless it is a whole commit id."""
    address, _, revision = url.rpartition("@")
    if not is_commit(revision):
        raise ValueError("a git dependency must be pinned to a commit of 40 hexadecimal digits")
    return address, revision


def is_commit(text: str) -> bool:
    """Say whether `text` is a whole git object id, SHA-1 or SHA-256."""
    return _COMMIT.fullmatch(text) is not None
