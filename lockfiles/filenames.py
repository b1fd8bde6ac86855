"""What the file name of a wheel or an sdist says, parsed once per name."""

from __future__ import annotations

from functools import lru_cache

from packaging.tags import Tag, parse_tag
from packaging.utils import BuildTag, parse_sdist_filename, parse_wheel_filename

_MOST_DOTS = 32


def wheel_tags(filename: str) -> frozenset[Tag]:
    """Give the tags of a wheel; none where the name is not that of a wheel."""
    parts = filename.removesuffix(".whl").split("-")
    if not filename.endswith(".whl") or len(parts) not in (5, 6):
        return frozenset()
    return _tags("-".join(parts[-3:]))


@lru_cache(maxsize=16384)
def _tags(compressed: str) -> frozenset[Tag]:
    try:
        check_wheel_name(compressed)
        return frozenset(parse_tag(compressed))
    except ValueError:
        return frozenset()


def check_wheel_name(filename: str) -> None:
    """Refuse a name whose compressed tags may stand for more than memory holds. Raises ValueError.

    `a.b-c.d-e.f` stands for eight tags, and so on.
    """
    if filename.count(".") > _MOST_DOTS:
        raise ValueError("the name of a wheel stands for too many tags")


def is_wheel(filename: str) -> bool:
    """Say whether the whole name is that of a wheel, and not its tags alone."""
    try:
        parse_wheel_filename(filename)
    except ValueError:
        return False
    return True


def build_tag(filename: str) -> BuildTag:
    """Give the build tag of a wheel, which is empty for most."""
    return parse_wheel_filename(filename)[2]


def is_sdist(filename: str) -> bool:
    """Say whether the name is that of a source distribution."""
    return filename.endswith((".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz"))


def name_and_version(filename: str) -> tuple[str, str]:
    """Give the normalized name and the version in a file name. Raises ValueError."""
    if filename.endswith(".whl"):
        check_wheel_name(filename)
        name, version, *_ = parse_wheel_filename(filename)
    else:
        name, version = parse_sdist_filename(filename)
    return name, str(version)
