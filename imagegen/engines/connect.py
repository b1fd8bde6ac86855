"""The way to the Docker engine, for those who may do without: its SDK takes long to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagegen.engines.docker import DockerEngine


def docker_engine() -> DockerEngine:
    """Connect to the engine of DOCKER_HOST or of this host. Raises EngineUnavailableError."""
    from imagegen.engines.docker import DockerEngine

    return DockerEngine()
