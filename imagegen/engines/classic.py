"""The builder that every Docker engine has, through its API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from docker import DockerClient

from imagegen.archive import Entry, tar_stream
from imagegen.engines.docker import faults
from imagegen.engines.steps import Step
from imagegen.live import Progress

_CHATTER = (" --->", "Removing intermediate container")


@dataclass(frozen=True, slots=True, kw_only=True)
class Classic:
    """The classic builder of an engine, and why it is taken."""

    name: ClassVar[str] = "classic"
    client: DockerClient
    reason: str

    def __str__(self) -> str:
        return f"the classic builder: {self.reason}"

    def build(self, entries: Iterable[Entry], reference: str, progress: Progress) -> None:
        """Build a context without a network; the image has its name when it is whole. Raises BuildError."""
        with faults(reference):
            events = self.client.api.build(
                # requests sends what can be iterated in chunks as it comes
                fileobj=tar_stream(entries),  # type: ignore[arg-type]  # the stubs know files only
                custom_context=True,
                tag=reference,
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
                use_config_proxy=False,  # no proxy's credentials into an image
                timeout=self.client.api.timeout,
            )
            _follow(events, reference, progress)


def _follow(events: Iterator[dict[str, Any]], reference: str, progress: Progress) -> None:
    """Show a build as it goes, one line for each step."""
    step = Step()
    for event in events:
        for line in str(event.get("stream", "")).splitlines():
            if line.startswith("Step "):
                step = Step(" ".join(line.removeprefix("Step ").replace(" :", "", 1).split()))
                step.begin(progress)
            elif line.strip() and not line.startswith(_CHATTER):
                step.output(line, progress)
        if "error" in event:
            raise step.failed(str(event["error"]).strip(), reference)
