"""What filling the store comes to."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.inputs import Failures
from mirror.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """A snapshot of what is stocked, what was fetched for it (bytes), and which locks failed.

    `left_out` says of locks which targets they are not meant for.
    """

    snapshot: Snapshot
    fetched: int
    fetched_size: int
    failed: Failures
    left_out: tuple[str, ...] = ()
