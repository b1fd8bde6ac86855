"""What people see: messages to stderr, data to stdout, errors as one sentence and a hint.

`run` is the only place where an error becomes text and an exit code. rich is imported by whoever says
something: it would be a tenth of a run that only prints data for programs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockfiles.errors import LockstockError
from mirror.store import disk_errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_INTERNAL_ERROR = 70
_INTERRUPTED = 130


@cache
def err() -> Console:
    """Give the console of messages, which is stderr."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def run(app: Callable[[], object]) -> None:
    """Run a command-line application and end the process with its exit code."""
    try:
        with disk_errors(Path()):
            app()
    except LockstockError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer took it
            _say_interrupted()
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the last resort: a fault of ours, not of the user
        if os.environ.get("LOCKSTOCK_TRACEBACK"):
            traceback.print_exc()
        _tell("internal error", f"{type(error).__name__}: {error}")
        say("hint: this is a bug; LOCKSTOCK_TRACEBACK=1 shows where, please report it")
        sys.exit(_INTERNAL_ERROR)


def _say_interrupted() -> None:
    say("interrupted; nothing half-done is left behind")


def report_error(error: LockstockError) -> None:
    """Print an error and its hint."""
    _tell("error", str(error))
    if error.hint:
        say(f"hint: {error.hint}")


def _tell(kind: str, reason: str) -> None:
    from rich.markup import escape

    err().print(f"[red]{kind}:[/red] {escape(printable(reason))}")


def say(message: str) -> None:
    """Tell on stderr how things go."""
    if not sys.stderr.isatty():  # rich takes longer to import than there is to gain
        sys.stderr.write(f"{printable(message)}\n")
        return
    from rich.markup import escape

    err().print(escape(printable(message)))


def print_json(value: Any) -> None:
    """Print data for programs on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table for people on stdout; numbers go to the right.

    Nothing is shortened or broken where it does not fit: a digest has to be copied whole.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    content = [[printable(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(content) and all(row[index][:1].isdigit() for row in content)
        table.add_column(
            column,
            justify="right" if numeric else "left",
            no_wrap=True,
            min_width=max((cell_len(row[index]) for row in content), default=0),
        )
    for row in content:
        table.add_row(*(escape(cell) for cell in row))
    # Measured by rich to its own content: where the console is narrower, columns would vanish.
    needed = Console(width=10_000).measure(table).maximum
    width = max(needed, Console().width)
    Console(width=width, soft_wrap=True, highlight=False).print(table, crop=False)


def download_progress() -> Progress:
    """Make a progress bar for bytes; silent where stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        console=err(),
        transient=True,
        disable=not err().is_terminal,
    )


def printable(text: str) -> str:
    """Replace control characters, which hostile names may carry to a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def human_size(size: float) -> str:
    """Write bytes as 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """Write seconds as 15 ms, 3.2 s or 2 min 5 s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def plural(count: int, noun: str) -> str:
    """Write 1 package, 2 packages."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
