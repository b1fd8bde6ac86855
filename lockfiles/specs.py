"""Markers, requirements and versions from untrusted text: parsed once, ValueError when wrong.

The parsers of `packaging` recurse and convert numbers, so hostile text may end them with other
errors than their own. These functions know only one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from lockfiles.urls import LONGEST_NAME

_T = TypeVar("_T")


def _only_value_error(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    cached = lru_cache(maxsize=16384)(parse)

    @wraps(parse)
    def safe(text: str) -> _T:
        try:
            return cached(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except ValueError as error:
            raise ValueError(str(error).split("\n")[0]) from None

    return safe


@_only_value_error
def parse_marker(text: str) -> Marker:
    """Parse an environment marker (PEP 508). Raises ValueError."""
    return Marker(text)


@_only_value_error
def parse_requirement(text: str) -> Requirement:
    """Parse a dependency specifier (PEP 508). Raises ValueError."""
    requirement = Requirement(text)
    _read_versions(requirement.specifier)
    return requirement


@_only_value_error
def parse_specifier(text: str) -> SpecifierSet:
    """Parse a version specifier (PEP 440). Raises ValueError."""
    specifiers = SpecifierSet(text)
    _read_versions(specifiers)
    return specifiers


def _read_versions(specifiers: SpecifierSet) -> None:
    """Make `packaging` read the versions now, which else fail when they are first compared."""
    for specifier in specifiers:
        specifier.contains("0", prereleases=True)
    str(specifiers)


@_only_value_error
def parse_version(text: str) -> Version:
    """Parse a version (PEP 440). Raises ValueError."""
    return Version(text)


def check_version(text: str) -> str:
    """Give the text of a version back, as it is written (PEP 440). Raises ValueError."""
    if parse_version(text) and text.isprintable() and " " not in text:
        return text
    raise ValueError(f"{text!r} is not a version")


@_only_value_error
def normalize(name: str) -> str:
    """Normalize the name of a package (PEP 503), which is that of a folder, too. Raises ValueError."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{name[:40]!r}… is longer than the name of a package may be")
    return canonicalize_name(name, validate=True)
