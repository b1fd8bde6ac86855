"""Typed access to parsed TOML and JSON, with errors that say where: file, line and path.

The document is hostile until a getter has said otherwise: each getter checks the type and names
the place (`package[12].wheels[3].hash`) when it is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar, overload

import tomli

from lockfiles.errors import LockstockError
from lockfiles.urls import redact

_T = TypeVar("_T")
_NAMES = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    list: "an array",
    dict: "a table",
    float: "a number",
}
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """The text a table was read from and the kind of error its faults are.

    `text` is empty where its lines cannot be told from paths.
    """

    name: str
    text: str
    error: type[LockstockError]

    def fault(self, path: Path, reason: str, hint: str = "") -> LockstockError:
        """Make the error for the value at `path`."""
        line = toml_line(self.text, path)
        place = f"{self.name}:{line}" if line else self.name
        return self.error(f"{format_path(path)}: {reason}" if path else reason, where=place, hint=hint)


@dataclass(slots=True)
class Table:
    """A table of a document whose keys are read once each by typed getters."""

    document: Document
    value: Mapping[str, Any]
    path: Path = ()
    seen: set[str] = field(default_factory=set)

    def fault(self, key: str, reason: str, hint: str = "") -> LockstockError:
        """Make the error for one key of this table."""
        return self.document.fault((*self.path, key) if key else self.path, reason, hint)

    def _typed(self, key: str, kind: type[_T]) -> _T | None:
        self.seen.add(key)
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault(key, f"must be {_NAMES[kind]}, not {_NAMES.get(type(value), 'something else')}")
        return value

    def parsed(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """Give what `parse` makes of the string at `key`, where there is one."""
        value = self._typed(key, str)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise self.fault(key, redact(str(error))) from error

    def required(self, key: str, parse: Callable[[str], _T]) -> _T:
        """Give what `parse` makes of the string at `key`, which must be there."""
        value = self.parsed(key, parse)
        if value is None:
            raise self._missing(key)
        return value

    @overload
    def string(self, key: str) -> str: ...
    @overload
    def string(self, key: str, default: _T) -> str | _T: ...
    def string(self, key: str, default: Any = ...) -> Any:
        """Give the string at `key`; it must be there unless a default is given."""
        return self._default(key, self._typed(key, str), default)

    def integer(self, key: str, default: int, minimum: int = 0, maximum: int | None = None) -> int:
        """Give the integer at `key`, which may be neither less than `minimum` nor more than `maximum`."""
        value = self._typed(key, int)
        if value is not None and value < minimum:
            raise self.fault(key, f"must be at least {minimum}")
        if value is not None and maximum is not None and value > maximum:
            raise self.fault(key, f"must be at most {maximum}")
        return default if value is None else value

    def boolean(self, key: str, default: bool) -> bool:
        """Give true or false."""
        value = self._typed(key, bool)
        return default if value is None else value

    def strings(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """Give an array of strings."""
        value = self._typed(key, list)
        if value is None:
            return tuple(self._default(key, None, ... if default is None else default))
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise self.document.fault((*self.path, key, index), "must be a string")
        return tuple(value)

    def table(self, key: str) -> Table:
        """Give the table at `key`, an empty one where there is none."""
        return Table(self.document, self._typed(key, dict) or {}, (*self.path, key))

    def tables(self, key: str) -> Iterator[Table]:
        """Give the tables of the array at `key`."""
        for index, item in enumerate(self._typed(key, list) or ()):
            path = (*self.path, key, index)
            if not isinstance(item, dict):
                raise self.document.fault(path, "must be a table")
            yield Table(self.document, item, path)

    def arrays_of_tables(self, key: str) -> Iterator[tuple[Table, ...]]:
        """Give the tables of each array in the array at `key`."""
        for index, items in enumerate(self._typed(key, list) or ()):
            path = (*self.path, key, index)
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise self.document.fault(path, "must be an array of tables")
            yield tuple(Table(self.document, item, (*path, i)) for i, item in enumerate(items))

    def named_tables(self) -> Iterator[tuple[str, Table]]:
        """Give each key of this table with the table it holds."""
        for key in self.value:
            if self._typed(key, dict) is not None:
                yield key, self.table(key)

    def string_map(self, key: str) -> dict[str, str]:
        """Give a table whose values are all strings."""
        table = self.table(key)
        return {name: table.string(name) for name in table.value}

    def finish(self) -> None:
        """Refuse keys that no getter asked for, naming the one that was likely meant."""
        for key in self.value:
            if key not in self.seen:
                near = get_close_matches(key, sorted(self.seen), 1)
                known = ", ".join(sorted(self.seen))
                raise self.fault(
                    key, "unknown key", f"did you mean {near[0]!r}?" if near else f"known here: {known}"
                )

    def _default(self, key: str, value: Any, default: Any) -> Any:
        if value is None and default is ...:
            raise self._missing(key)
        return default if value is None else value

    def _missing(self, key: str) -> LockstockError:
        return self.document.fault(self.path, f"{key!r} is missing")


def parse_toml(name: str, text: str, error: type[LockstockError]) -> Table:
    """Parse TOML into a table whose faults are of the kind `error`."""
    try:
        return Table(Document(name, text, error), tomli.loads(text))
    except (ValueError, RecursionError) as fault:
        line = re.search(r"\(at line (\d+)", str(fault))
        reason = str(fault).split(" (at ")[0] if isinstance(fault, ValueError) else "nested too deeply"
        where = f"{name}:{line[1]}" if line else name
        raise error(f"not valid TOML: {reason}", where=where) from fault


def parse_json(name: str, text: str, error: type[LockstockError]) -> Table:
    """Parse a JSON object into a table whose faults are of the kind `error`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as fault:
        line = f":{fault.lineno}" if isinstance(fault, json.JSONDecodeError) else ""
        reason = (
            fault.msg if isinstance(fault, json.JSONDecodeError) else "nested too deeply, or a huge number"
        )
        raise error(f"not valid JSON: {reason}", where=f"{name}{line}") from fault
    if not isinstance(value, dict):
        raise error("not a JSON object", where=name)
    return Table(Document(name, "", error), value)


def format_path(path: Path) -> str:
    """Write a path as `package[12].wheels[3].hash`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def toml_line(text: str, path: Path) -> int | None:
    """Find the line that holds the value at `path`, or that of its nearest parent.

    tomllib keeps no positions, so the text is searched again for headers and keys.
    """
    best, depth = None, 0
    for number, here in _toml_places(text):
        common = next(
            (i for i, (a, b) in enumerate(zip(here, path, strict=False)) if a != b), min(len(here), len(path))
        )
        if common == len(path):  # the value itself, or the first thing in it
            return number
        if common == len(here) and common > depth:
            best, depth = number, common
    return best


def _toml_places(text: str) -> Iterator[tuple[int, Path]]:
    counts: dict[Path, int] = {}
    header: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            header = _resolve(_split_key(match[2]), counts, array=match[1] == "[[")
            yield number, header
        elif match := _KEY.match(line):
            yield number, (*header, *_split_key(match[1]))


def _resolve(parts: list[str], counts: dict[Path, int], *, array: bool) -> Path:
    """Turn a header's keys into a path, with the index of each array of tables on the way."""
    path: Path = ()
    for place, part in enumerate(parts):
        path = (*path, part)
        if array and place == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _split_key(text: str) -> list[str]:
    return [part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", text)]
