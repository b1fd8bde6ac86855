"""What an engine runs a Dockerfile with: BuildKit where that is to be had, the classic builder elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol

from imagegen.archive import Entry
from imagegen.engines import buildkit
from imagegen.engines.classic import Classic
from imagegen.engines.docker import DockerEngine
from imagegen.live import Progress

# How docker reads that a switch is off.
_OFF = ("0", "f", "false")


class Builder(Protocol):
    """What makes an image of a context; as text, it says what it is to people, and `name` to programs."""

    @property
    def name(self) -> str:
        """Give its name in reports."""
        ...

    def build(self, entries: Iterable[Entry], reference: str, progress: Progress) -> None:
        """Build without a network; the image has its name when it is whole. Raises BuildError."""
        ...


def choose_builder(engine: DockerEngine) -> Builder:
    """Give BuildKit if the engine has it and a program can ask for it, unless DOCKER_BUILDKIT forbids it."""
    if os.environ.get("DOCKER_BUILDKIT", "").lower() in _OFF:
        return Classic(client=engine.client, reason="DOCKER_BUILDKIT is off")
    if not buildkit.offers(engine.client):
        return Classic(client=engine.client, reason="this engine has no other")
    program = buildkit.find_program()
    if program is None:
        return Classic(client=engine.client, reason="no docker command on PATH can ask for BuildKit")
    return buildkit.BuildKit(program=program)
