"""Published files: hard links to the store, below folders that are named by the files' digests."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mirror.publish import devpi_state

PREFIX = 16  # as many digits of the sha256 as every folder's name tells
TEMPORARY = "-tmp"  # devpi's own mark, which the sweepers know


def published(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Give every file that the mirror in `root` publishes, with the first digits of its sha256.

    The places of npm's tarballs do not tell them.
    """
    devpis = devpi_state.server_folder(root / "devpi") / "+files" / devpi_state.USER
    for path in (*sorted(devpis.glob("*/+f/*/*/*")), *sorted((root / "tree").glob("[0-9]*/files/*/*/*"))):
        if path.suffix != ".metadata" and not path.name.endswith(TEMPORARY):
            yield path, (path.parent.parent.name + path.parent.name)[:PREFIX]
    for path in sorted((root / "tree").glob("[0-9]*/npm/**/-/*")):
        yield path, None


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, at once for every reader; a copy on another disk."""
    fresh = target.with_name(target.name + TEMPORARY)
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
            raise
        shutil.copyfile(source, fresh)
    fresh.replace(target)
