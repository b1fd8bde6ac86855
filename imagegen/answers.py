"""What an answer of a registry, or the lack of one, means: an error, another attempt, a token."""

from __future__ import annotations

from collections.abc import Iterable

import httpx

from imagegen.credentials import CERTIFICATES
from imagegen.errors import PushError
from imagegen.reference import Reference


class RetryError(Exception):
    """An answer that may be another one soon."""


# What may go wrong on the way to an answer; a hostile address or encoding is no transport error.
FAULTS = (httpx.RequestError, httpx.InvalidURL, RetryError)

# What is true of the bytes on the way only.
_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


def check(answer: httpx.Response, expect: tuple[int, ...], where: str) -> None:
    """Do nothing if the status is one of those; raise RetryError if it may pass, else PushError."""
    if answer.status_code in expect:
        return
    if answer.status_code in (416, 429, 500, 502, 503, 504):
        raise RetryError(f"it answers {answer.status_code}")
    hint = "check the name, and what you may do in that repository"
    if answer.status_code in (401, 403):
        hint = f"run `docker login {where.partition('/')[0]}` as somebody who may do this there"
    raise PushError(f"it answers {answer.status_code} ({_reason(answer)})", where=where, hint=hint)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["errors"][0]["message"])[:200]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return answer.reason_phrase


def bounded(pieces: Iterable[bytes], limit: int, where: str) -> bytes:
    """Join what comes, `limit` bytes at most. Raises PushError where it is more."""
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > limit:
            raise PushError(f"it gives a document of more than {limit} bytes", where=where)
    return bytes(data)


def whole(answer: httpx.Response, limit: int, where: str) -> httpx.Response:
    """Give an answer that is still coming with its body, decoded. Raises PushError where that is larger."""
    body = bounded(answer.iter_bytes(), limit, where)
    told = [(key, value) for key, value in answer.headers.multi_items() if key.lower() not in _TRANSFER]
    return httpx.Response(
        answer.status_code, headers=told, content=body, request=answer.request, extensions=answer.extensions
    )


def drop_redirect_body(answer: httpx.Response) -> None:
    """Leave out, as a hook of httpx, what it would read whole where it follows a redirect."""
    if answer.has_redirect_location and isinstance(answer.stream, httpx.SyncByteStream):
        answer.stream.close()
        answer.stream = httpx.ByteStream(b"")


def token_of(content: object) -> str:
    """Give the token in an answer. Raises ValueError where it is none that a header can hold."""
    found = (content.get("token") or content.get("access_token")) if isinstance(content, dict) else None
    if not (isinstance(found, str) and found.isascii() and found.isprintable()):
        raise ValueError("no token")
    return found


def is_final(error: Exception) -> bool:
    """Say whether another attempt would end the same."""
    passing = isinstance(error, httpx.TransportError | RetryError)
    return not passing or speaks_no_tls(error) or distrusts(error)


def unreachable(error: Exception, reference: Reference) -> PushError:
    """Give the error for a registry that gave no answer that is one."""
    hint = "check the name and the network, then try again: what arrived is not sent twice"
    if distrusts(error):
        hint = (
            f"put the registry's CA into {CERTIFICATES}/{reference.registry}/ca.crt, or name a bundle in "
            "SSL_CERT_FILE"
        )
    return PushError(f"it cannot be reached: {error}", where=str(reference), hint=hint)


def speaks_no_tls(error: BaseException | None) -> bool:
    """Say whether the other side knows nothing of TLS."""
    return "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error)


def distrusts(error: BaseException) -> bool:
    """Say whether the other side's certificate is not trusted."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
