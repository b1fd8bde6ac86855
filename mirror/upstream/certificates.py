"""Whose certificates are trusted and which are shown: what the settings say, or else this Python."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pycurl

from mirror.upstream.failures import bad_certificate
from mirror.upstream.settings import UpstreamSettings


def authorities(settings: UpstreamSettings) -> dict[int, object]:
    """Give the options for the authorities to trust, which else are those of this Python, and for our own.

    Raises UpstreamError where what is set is not there.
    """
    default = ssl.get_default_verify_paths()
    file: str | None = default.cafile
    # It may name several folders, which Python takes for none.
    folder: str | None = os.environ.get(default.openssl_capath_env) or default.capath
    if settings.cert:
        _look_at(settings.cert)
        is_folder = Path(settings.cert).is_dir()
        file, folder = (None, settings.cert) if is_folder else (settings.cert, None)
    # Nothing, too, has to be said: libcurl has a file that was there where it was built.
    found: dict[int, object] = {pycurl.CAINFO: file, pycurl.CAPATH: folder}
    found |= {pycurl.PROXY_CAINFO: file, pycurl.PROXY_CAPATH: folder}
    if settings.client_cert:
        _look_at(settings.client_cert)
        _try(settings.client_cert)
        found |= {pycurl.SSLCERT: settings.client_cert, pycurl.SSLKEY: settings.client_cert}
    return found


def _look_at(path: str) -> None:
    if not os.access(path, os.R_OK):
        reason = "it is not there" if not Path(path).exists() else "it may not be read"
        raise bad_certificate(f"{path}: {reason}")


def _try(path: str) -> None:
    """See that a file has a certificate and its key; for the password of one, libcurl would ask and wait."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, password="")
    except OSError as error:
        reason = "it is no certificate with its key, or the key has a password"
        raise bad_certificate(f"{path}: {reason}") from error
