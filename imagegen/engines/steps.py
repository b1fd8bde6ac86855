"""What is shown of a Dockerfile's steps, whichever builder takes them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from imagegen.errors import BuildError
from imagegen.live import Progress
from mirror.console import say

_COLUMNS = 110
_TAIL = 25


@dataclass(frozen=True, slots=True)
class Step:
    """A step, and the last lines of what it prints. One without a title is what goes before the first."""

    title: str = ""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def begin(self, progress: Progress) -> None:
        """Tell that it is taken."""
        progress.step(f"  {self.title}"[:_COLUMNS])

    def output(self, line: str, progress: Progress) -> None:
        """Show a line that it prints, and keep it for a while."""
        progress.detail(line)
        self.last.append(line)

    def failed(self, reason: str, reference: str) -> BuildError:
        """Show its last lines, and give the error of the build of `reference`."""
        for line in self.last:
            say(f"  │ {line}")
        return BuildError(
            reason,
            where=f"{reference}, step {self.title}" if self.title else reference,
            hint="the step's last lines are above; `imagegen render NAME -o DIR` shows the Dockerfile",
        )
