"""Progress of long work on stderr: lines that stay, and on a terminal one that changes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mirror.console import err, printable, say

if TYPE_CHECKING:
    from rich.status import Status


class Progress(Protocol):
    """Who is told how work goes."""

    def step(self, text: str) -> None:
        """Tell what is done next; stays to be read."""
        ...

    def detail(self, text: str) -> None:
        """Show what is going on just now."""
        ...


class Silent:
    """Tells nobody."""

    def step(self, text: str) -> None:
        """Pass over a step."""

    def detail(self, text: str) -> None:
        """Pass over a detail."""


class Plain:
    """Tells a stream that is no terminal, where nothing changes that was said."""

    def step(self, text: str) -> None:
        """Print a line."""
        say(text)

    def detail(self, text: str) -> None:
        """Pass over a detail."""


class Live:
    """Tells the terminal."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def step(self, text: str) -> None:
        """Print a line and show it as what is going on."""
        say(text)
        self._status.update("")

    def detail(self, text: str) -> None:
        """Show a line until the next one comes, cut to the terminal's width."""
        from rich.markup import escape

        self._status.update(escape(printable(text.strip()))[: max(err().width - 4, 10)])


@contextmanager
def live() -> Iterator[Progress]:
    """Show progress on stderr while the block runs."""
    if not sys.stderr.isatty():
        yield Plain()
        return
    with err().status("") as status:
        yield Live(status)
