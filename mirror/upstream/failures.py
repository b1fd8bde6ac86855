"""What libcurl says of requests that failed, in our words."""

from __future__ import annotations

import pycurl

from mirror.errors import TruncatedError, UpstreamError
from mirror.upstream.settings import without_secrets

_CUT_OFF = frozenset({pycurl.E_PARTIAL_FILE, pycurl.E_GOT_NOTHING, pycurl.E_HTTP2, 92})  # and its streams
_BROKEN = frozenset({pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR})
_UNREADABLE = frozenset(
    {pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_FTP_WEIRD_SERVER_REPLY, pycurl.E_BAD_CONTENT_ENCODING, 100}
)
_NO_CERTIFICATE = frozenset({pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CACERT_BADFILE})
NO_PROXY_ACCESS = 407
_CLIENTS = "`pip config list` or `npm config list`"
_AUTHORITY = "name its authority as pip takes it (`cert` in its configuration), or npm (`cafile` in .npmrc)"
_PROXY_ACCESS = f"give its user and password in its address (http://USER:PASSWORD@HOST); {_CLIENTS}"


class UnreachableError(UpstreamError):
    """No connection, or none that lasts; another try may find one."""


def failure(url: str, code: int, text: str, proxy: int, *, begun: bool) -> UpstreamError:
    """Say what a request ended with: libcurl's code and text, and the status that a proxy gave it or 0.

    `begun` says that its headers came. The URL may hold credentials and signatures.
    """
    where = without_secrets(url)
    if proxy >= 300:
        return refusal(proxy, url)
    if code in _CUT_OFF or (code in _BROKEN and begun):
        when = "in the middle" if begun else "before it answered"
        return TruncatedError(f"the upstream stopped {when}", where=where, hint="run the refresh again")
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        return UpstreamError(f"the certificate is not trusted: {text}", where=where, hint=_AUTHORITY)
    if code in _UNREADABLE:
        reason = f"the answer cannot be read: {text}"
        return UnreachableError(reason, where=where, hint=f"check the proxy, and {_CLIENTS}")
    if code in _NO_CERTIFICATE:
        return bad_certificate(text)
    return UnreachableError(
        f"cannot be reached: {text}", where=where, hint=f"check the network, the proxy, and {_CLIENTS}"
    )


def refusal(status: int, url: str) -> UpstreamError:
    """Say what a proxy answers; that it lets nobody in stays so, however often it is asked."""
    where = without_secrets(url)
    if status in (401, 403, NO_PROXY_ACCESS):
        return UpstreamError(f"the proxy refuses access ({status})", where=where, hint=_PROXY_ACCESS)
    return UnreachableError(
        f"the proxy answers {status}", where=where, hint=f"check the proxy, and {_CLIENTS}"
    )


def bad_certificate(reason: str) -> UpstreamError:
    """Say why a certificate of the settings is of no use."""
    return UpstreamError(
        f"the certificate setting cannot be used: {reason}",
        hint="look at `pip config debug` and `npm config list`",
    )
