"""Tars unpacked by tar, for whoever unpacks; the system's errors are told as such."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from imagegen.errors import BuildError
from mirror.store import disk_errors

# How tar tells of a disk or quota that is full.
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|Wrote only \d+ of")
# Nobody in particular is to run what is unpacked.
UMASK = 0o022


def untar(folder: Path, options: Sequence[str], *, what: str, where: str, data: bytes = b"") -> None:
    """Unpack into a folder with these options of tar; `data` is its stdin, `what` and `where` name it.

    Raises BuildError, and DiskFullError.
    """
    with disk_errors(folder):
        ended = subprocess.run(
            ["tar", "-x", "--no-same-owner", "-C", str(folder), *options],
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            umask=UMASK,
        )
        said = ended.stderr.decode(errors="replace")
        if _FULL.search(said):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if ended.returncode:
        raise BuildError(f"{what} cannot be unpacked: {said.strip()[-300:]}", where=where)
