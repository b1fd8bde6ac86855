"""Patterns of paths, with one meaning for folders and for git: `*`, `?`, `[…]`, and `**` for any folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_WILD = "*?["
_SKIPPED = frozenset({"node_modules", "__pycache__"})


def is_pattern(path: Path) -> bool:
    """Say whether the path stands for any number of files."""
    return any(character in str(path) for character in _WILD)


def fixed_part(pattern: Path) -> Path:
    """Give the folder that a pattern begins in."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if any(c in part for c in _WILD)), len(parts))
    return Path(*parts[:first])


def matches(pattern: str, path: str) -> bool:
    """Say whether the whole path is one that the pattern means; `/` is matched by `**` alone."""
    return _compiled(pattern).fullmatch(path) is not None


def files_of(pattern: Path, skipped: Path) -> list[Path]:
    """Give the files on disk that a pattern means, sorted.

    Hidden folders, node_modules and the folder `skipped` are not entered.
    """
    top, closed = fixed_part(pattern), skipped.resolve()
    return sorted(path for path in _walk(top, closed) if matches(pattern.as_posix(), path.as_posix()))


def _walk(top: Path, closed: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        folders[:] = [n for n in folders if not _is_left_out(n) and (here / n).resolve() != closed]
        yield from (here / name for name in files)


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in _SKIPPED


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = pattern.split("/")
    text = "".join(
        "(?:[^/]+/)*"
        if part == "**" and not last
        else (".*" if part == "**" else _segment(part) + ("" if last else "/"))
        for part, last in zip(parts, [*[False] * (len(parts) - 1), True], strict=True)
    )
    try:
        return re.compile(text, re.DOTALL)
    except re.error:  # brackets that hold no set of characters stand for themselves
        return re.compile(re.escape(pattern))


def _segment(part: str) -> str:
    """Translate what stands between two slashes."""
    parts = re.findall(r"\[!?\]?[^\]/]*\]|\*+|\?|.", part, re.DOTALL)
    return "".join(map(_token, parts))


def _token(part: str) -> str:
    if part.startswith("*"):
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if part.startswith("[") and len(part) > 2:
        inner = part[1:-1].replace("\\", "\\\\")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(part)
