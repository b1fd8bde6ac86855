"""bases.lock: the digests that bases of registries, engines and folders were pinned to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from imagegen.errors import BaseError
from lockfiles.document import parse_toml
from mirror.store import write_atomically

NAME = "bases.lock"
_VERSION = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEAD = (
    "# Written by `imagegen lock-base`; each base is the image with this digest, whatever its tag is now.\n"
)


def read_pins(folder: Path) -> dict[str, str]:
    """Read the digests by the bases' names, as `base` writes them; none where there is no file.

    Raises BaseError.
    """
    file = folder / NAME
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"cannot be read: {error}", where=str(file)) from error
    table = parse_toml(str(file), text, BaseError)
    if table.integer("version", 0) != _VERSION:
        raise table.fault("version", f"is not {_VERSION}", "run `imagegen lock-base` of this version again")
    pins = table.string_map("base")
    table.finish()
    for name, digest in pins.items():
        if not _DIGEST.fullmatch(digest):
            raise table.fault("base", f"{name} has {digest!r}, which is no digest")
    return pins


def write_pins(folder: Path, pins: Mapping[str, str]) -> None:
    """Write the digests, sorted by name."""
    quoted = {json.dumps(name, ensure_ascii=False): digest for name, digest in sorted(pins.items())}
    lines = [f'{name} = "{digest}"\n' for name, digest in quoted.items()]
    text = f"{_HEAD}version = {_VERSION}\n\n[base]\n{''.join(lines)}"
    write_atomically(folder / NAME, text.encode())
