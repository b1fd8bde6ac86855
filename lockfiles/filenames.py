"""What the file name of a wheel or an sdist says, parsed once per name."""

from __future__ import annotations

from functools import lru_cache

from packaging.tags import Tag
from packaging.utils import BuildTag, parse_sdist_filename, parse_wheel_filename

_CACHED = 65536


@lru_cache(maxsize=_CACHED)
def wheel_tags(filename: str) -> frozenset[Tag]:
    """Give the tags of a wheel; none where the name is not that of a wheel."""
    try:
        return parse_wheel_filename(filename)[3]
    except ValueError:
        return frozenset()


def build_tag(filename: str) -> BuildTag:
    """Give the build tag of a wheel, which is empty for most."""
    return parse_wheel_filename(filename)[2]


def is_sdist(filename: str) -> bool:
    """Say whether the name is that of a source distribution."""
    return filename.endswith((".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"))


def name_and_version(filename: str) -> tuple[str, str]:
    """Give the normalized name and the version in a file name. Raises ValueError."""
    parse = parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename
    name, version, *_ = parse(filename)
    return name, str(version)
