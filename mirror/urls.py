"""URLs that lockstock.toml names, checked. What is wrong is said without the text, which may be secret."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


def guarded_url(text: str) -> str:
    """Check a URL that a password is sent to: no stranger may listen on the way. Raises ValueError."""
    url = open_url(text)
    parts = _split(url)
    if parts.scheme != "https" and not _is_near(parts.hostname or ""):
        raise ValueError("must be an https URL, but for addresses of this machine or a private network")
    return url


def _is_near(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_private
    except ValueError:
        return False


def open_url(text: str) -> str:
    """Check an http or https URL that is shown to anybody, and so may hold no secret. Raises ValueError."""
    parts = _split(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0:
        raise ValueError("must be an http or https URL")
    if parts.username is not None:
        raise ValueError("may not carry credentials, for everybody sees it")
    return text.rstrip("/")


def index_url(text: str) -> str:
    """Check the URL of an index, which may hold credentials and be a folder's. Raises ValueError."""
    if _split(text).scheme not in ("http", "https", "file"):
        raise ValueError("must be an http, https or file URL")
    return text


def _split(text: str) -> SplitResult:
    """Split a URL. Raises ValueError, which does not repeat the text: there may be a secret in it."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - it is read when it is asked for
    except ValueError:
        raise ValueError("is not a URL") from None
    return parts
