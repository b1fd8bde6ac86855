"""Version constraints as poetry writes them: PEP 440 with `^`, `~`, `1.2.*`, `*` and `||`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet

from lockfiles.specs import parse_marker, parse_specifier, parse_version

_PART = re.compile(r"(\^|~=|~|===?|!=|<=|>=|<|>|)\s*([^\s,<>=!~^|]+)")


def allows(constraint: str, version: str) -> bool:
    """Say whether a constraint allows a version. Raises ValueError where it cannot be read."""
    wanted = parse_version(version)
    return any(alternative.contains(wanted, prereleases=True) for alternative in _alternatives(constraint))


def python_marker(constraint: str) -> Marker | None:
    """Turn a constraint on Python into a marker. Raises ValueError."""
    sides = [_python_conditions(alternative) for alternative in _alternatives(constraint)]
    if not all(sides):
        return None
    return parse_marker(" or ".join(f"({side})" for side in sides))


@lru_cache(maxsize=4096)
def _alternatives(constraint: str) -> tuple[SpecifierSet, ...]:
    return tuple(
        parse_specifier(",".join(_specifiers(part))) for part in re.split(r"\s*\|\|?\s*", constraint.strip())
    )


def _specifiers(text: str) -> Iterator[str]:
    for operator, version in _PART.findall(text):
        if version == "*":
            continue
        if operator in ("^", "~"):
            yield f">={version}"
            yield f"<{_bound(version, caret=operator == '^')}"
        else:
            yield f"{operator or '=='}{version}"


def _bound(version: str, *, caret: bool) -> str:
    """Give the first version that `^1.2.3` (2) or `~1.2.3` (1.3) no longer allows."""
    release = parse_version(version).release
    if caret:
        place = next((index for index, number in enumerate(release) if number), len(release) - 1)
    else:
        place = min(1, len(release) - 1)
    return ".".join(map(str, (*release[:place], release[place] + 1)))


def _python_conditions(specifiers: SpecifierSet) -> str:
    return " and ".join(map(_python_condition, sorted(map(str, specifiers))))


def _python_condition(specifier: str) -> str:
    """Write one specifier as a marker; `python_version` has no patch release to compare with."""
    operator, version = _PART.fullmatch(specifier).groups()  # type: ignore[union-attr]  # PEP 440's own text
    variable = "python_full_version" if version.count(".") > 1 else "python_version"
    return f'{variable} {operator} "{version}"'
