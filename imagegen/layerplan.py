"""Which files share a layer: few layers, and as little as can be that a changed package drags along. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from imagegen.errors import LayerBudgetError
from mirror.snapshot import Stocked

DEFAULT_BUDGET = 40
# The engine's own limit; what an image derived from this one adds must fit, too.
MOST_LAYERS = 120
# The base, the environment and the configuration have layers of their own.
FIXED = 3
# A layer costs engines and pullers more time than this many bytes do.
_BIG = 1 << 16

Group = tuple[Stocked, ...]


def group(artifacts: Sequence[Stocked], budget: int, image: str, taken: int = FIXED) -> tuple[Group, ...]:
    """Share the artifacts of an image out among at most `budget` layers, of which some are taken.

    Big ones lie alone, the biggest if not all can. The rest is shared out by name, never by version
    or by what else there is, so a package that changes, comes or goes touches one layer only.
    Raises LayerBudgetError where there is no room.
    """
    room = budget - taken
    if room < 1 and artifacts:
        raise LayerBudgetError(
            f"{budget} layers are too few: {taken} are taken by the base, the environment, the settings "
            "and what lies in no package",
            where=image,
            hint=f"set `layers` of the image to {taken + 1} or more",
        )
    shared = max(1, room // 2)
    by_size = sorted(artifacts, key=lambda file: (-file.size, file.name, file.filename))
    alone = [file for file in by_size if file.size >= _BIG][: room - shared]
    rest: dict[int, list[Stocked]] = {}
    for file in by_size[len(alone) :]:
        rest.setdefault(_slot(file.name, shared), []).append(file)
    singles = [(file,) for file in sorted(alone, key=lambda file: (file.name, file.filename))]
    groups = [
        tuple(sorted(files, key=lambda file: (file.name, file.filename))) for _, files in sorted(rest.items())
    ]
    return (*singles, *groups)


def _slot(name: str, slots: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % slots
