"""Prints as JSON what a base has: the fields of `imagegen.engines.docker.Facts`."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import ssl
from pathlib import Path

# Where OpenSSL looks, and where Debian has it.
_BUNDLES = (ssl.get_default_verify_paths().openssl_cafile, "/etc/ssl/certs/ca-certificates.crt")

libc, libc_version = platform.libc_ver()
print(
    json.dumps(
        {
            "python": platform.python_version(),
            "arch": platform.machine(),
            "libc": libc or "musl",  # platform knows only glibc
            "libc_version": libc_version,
            "git": bool(shutil.which("git")),
            "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
            "ca": any(Path(file).exists() for file in _BUNDLES),
            "node": all(shutil.which(name) for name in ("node", "npm")),
        }
    )
)
