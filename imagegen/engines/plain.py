"""What BuildKit's clients print with `--progress plain`, read as it comes.

Each line has the number of its step, `#8 [stage-1 4/4] RUN make`, `#8 0.046 what it prints`,
`#8 DONE 0.1s`, `#8 ERROR: why`; those of steps that go on at one time are mixed. What has no number is
said by the client, at its end.
"""

from __future__ import annotations

import re

from imagegen.engines.steps import Step
from imagegen.errors import BuildError
from imagegen.live import Progress

_LINE = re.compile(r"#(\d+) (.*)", re.DOTALL)
_OUTPUT = re.compile(r"\d+\.\d+(?: (.*))?", re.DOTALL)
_ERROR = re.compile(r"ERROR:? (.*)", re.DOTALL)
# The last stage has a name only if the Dockerfile gives it one.
_STEP = re.compile(r"\[(?:stage-\d+ )?((?:\S+ )?\d+/\d+)\] (.*)")


class PlainProgress:
    """Shows a build's steps as they begin and what they print, and remembers which one failed, and why."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, Step] = {}
        # Until a step fails it is the client that does, and what it says is shown.
        self._failed = self._client = Step()
        self._reason = self._said = ""

    def take(self, line: str) -> None:
        """Take one more line."""
        found = _LINE.fullmatch(line)
        if not found:
            self._hear(line)
            return
        number, text = found.groups()
        step = self._steps.get(number)
        if step is None:
            self._steps[number] = self._begun(text)
        elif error := _ERROR.fullmatch(text):
            if not self._reason:  # others are only cancelled then
                self._failed, self._reason = step, error[1]
        elif output := _OUTPUT.fullmatch(text):
            if output[1]:
                step.output(output[1], self._progress)
        else:
            self._progress.detail(text)

    def failure(self, reference: str, code: int) -> BuildError:
        """Give the error of the build of `reference`, whose client ended with a code that is not 0."""
        return self._failed.failed(self._reason or self._said or f"docker ended with {code}", reference)

    def _hear(self, line: str) -> None:
        """Keep what the client says; the last line is why it ends, unless another calls itself that."""
        if line.strip():
            if line.startswith("ERROR: "):
                self._reason = self._reason or line.removeprefix("ERROR: ")
            self._said = line.strip()
            self._client.last.append(line)

    def _begun(self, text: str) -> Step:
        """Show a step of the Dockerfile, or the making of the image, but not what goes on before."""
        found = _STEP.fullmatch(" ".join(text.split()))
        step = Step(f"{found[1]} {found[2]}" if found else text)
        if found or text.startswith("exporting"):
            step.begin(self._progress)
        return step
