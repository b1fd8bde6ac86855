"""How the last refresh ended: noted for whoever asks later."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lockfiles.errors import LockstockError
from mirror.errors import BusyError
from mirror.layout import Layout
from mirror.store import write_atomically

_INTERNAL_ERROR = 70
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One refresh: when it ended, in seconds since 1970, and its exit code, 0 where it went well.

    `succeeded` is when a refresh last went well.
    """

    ended: float
    seconds: float
    exit_code: int
    reason: str
    snapshot: str | None
    changed: bool
    succeeded: float | None


@dataclass(slots=True)
class Outcome:
    """What a run says of itself before it ends."""

    snapshot: str | None = None
    changed: bool = False


@contextmanager
def noted(layout: Layout, then: Callable[[Run], None]) -> Iterator[Outcome]:
    """Note how the refresh in the block ends, and give it to `then`; errors go on their way.

    A run that finds another one at work is none.
    """
    outcome, begun, code, reason = Outcome(), time.time(), _INTERNAL_ERROR, ""
    try:
        yield outcome
        code, reason = 0, ""
    except LockstockError as error:
        code, reason = error.exit_code, str(error)
        raise
    except KeyboardInterrupt:
        code, reason = _INTERRUPTED, "interrupted"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        if code != BusyError.exit_code:
            run = _run(layout, outcome, begun, code, reason)
            try:
                _note(layout, run)
            finally:  # a full disk, which may be why it failed, keeps nobody from hearing of it
                then(run)


def _run(layout: Layout, outcome: Outcome, begun: float, code: int, reason: str) -> Run:
    ended = time.time()
    before = last_run(layout)
    return Run(
        ended=ended,
        seconds=ended - begun,
        exit_code=code,
        reason=reason,
        snapshot=outcome.snapshot,
        changed=outcome.changed,
        succeeded=ended if code == 0 else before.succeeded if before else None,
    )


def _note(layout: Layout, run: Run) -> None:
    if layout.root.is_dir():
        write_atomically(_file(layout), json.dumps(asdict(run)).encode())


def last_run(layout: Layout) -> Run | None:
    """Give how the last refresh ended, or None where none did."""
    try:
        return Run(**json.loads(_file(layout).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _file(layout: Layout) -> Path:
    return layout.root / "last-run.json"
