"""Keeps a sandbox that hammers from filling the log: the first records are written whole, the rest counted.

Pure: the caller writes what is to be written, and asks for the sums at the end of each window.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 60.0
_ALIKE = 8
_WHOLE = 256
_SUMS = 256

Fields = Mapping[str, Any]


@dataclass(slots=True)
class Repeats:
    """The denials of one task in one window of time, or the uses of its tokens.

    Of those that are alike the first few are written whole, and of all together `whole`; the others
    are counted: by what they are, or, where more than `sums` differ, by their kind alone.
    """

    whole: int = _WHOLE
    sums: int = _SUMS
    _written: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _held: dict[str, tuple[Fields, int]] = field(default_factory=dict)

    def admit(self, fields: Fields) -> bool:
        """Say whether a record is to be written now; if not, it was counted."""
        key = json.dumps(fields, sort_keys=True)
        alike = self._seen.get(key, 0)
        if alike < _ALIKE and self._written < self.whole:
            self._written += 1
            self._seen[key] = alike + 1
            return True
        if key not in self._held and len(self._held) >= self.sums:
            fields = others(fields)
            key = json.dumps(fields, sort_keys=True)
        self._held[key] = (fields, self._held.get(key, (fields, 0))[1] + 1)
        return False

    def drain(self) -> list[Fields]:
        """Give one record for all that were counted alike, `times` each, and begin a new window."""
        sums: list[Fields] = [{**fields, "times": times} for fields, times in self._held.values()]
        self._written = 0
        self._seen.clear()
        self._held.clear()
        return sums


def others(fields: Fields) -> Fields:
    """Give what is left of a record when too many differ: its event and its kind."""
    kept = ("event", "verdict", "kind", "action")
    return {name: fields[name] for name in kept if name in fields} | {"others": True}
