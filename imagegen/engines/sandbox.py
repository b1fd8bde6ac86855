"""A container for one command: no network, nothing to write to but its own folders, one socket out."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from docker.errors import NotFound
from docker.models.containers import Container as DockerContainer
from docker.types import Mount

from imagegen.archive import Entry, tar_stream
from imagegen.engines.docker import NO_CHECK, DockerEngine, faults

_LABEL = "io.lockstock.run"
_PROCESSES = 4096
_TMP = {"/tmp": "rw,exec,nosuid,nodev,mode=1777"}  # noqa: S108 - inside a container that lives for this run only


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """What is run: `mounts` are host files by their place inside, read-only; `folders` may be written.

    `owner` names who may run it at one time. `network` is none, or a container's that has none either.
    """

    image: str
    owner: str
    uid: int
    command: Sequence[str]
    environment: Mapping[str, str]
    mounts: Mapping[str, Path]
    folders: Sequence[str]
    network: str = "none"


class Sandbox:
    """A context manager: the container and its folders live inside the block.

    What a killed run of the same owner left behind is removed first.
    """

    def __init__(self, engine: DockerEngine, confined: Confined) -> None:
        self._client = engine.client
        self._confined = confined
        self._container: DockerContainer | None = None

    def __enter__(self) -> Sandbox:
        """Make it. Raises BuildError when the engine refuses."""
        confined = self._confined
        with faults(confined.image):
            for leftover in self._client.containers.list(
                all=True, filters={"label": f"{_LABEL}={confined.owner}"}
            ):
                leftover.remove(force=True, v=True)
            self._container = self._client.containers.create(
                confined.image,
                list(confined.command),
                entrypoint=[""],  # the command is an init itself: none that is not filtered runs beside it
                labels={_LABEL: confined.owner},
                environment=dict(confined.environment),
                network_mode=confined.network,
                mounts=[
                    *(
                        Mount(inside, str(path), type="bind", read_only=True)
                        for inside, path in confined.mounts.items()
                    ),
                    *(Mount(folder, None, type="volume") for folder in confined.folders),
                ],
                tmpfs=_TMP,
                read_only=True,
                user=str(confined.uid),
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=_PROCESSES,
                init=False,
                healthcheck=NO_CHECK,
                use_config_proxy=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it with its folders."""
        if self._container is not None:
            with faults(self._confined.image):
                try:
                    self._container.remove(force=True, v=True)
                except NotFound:
                    return

    def put(self, entries: Iterable[Entry], folder: str) -> None:
        """Copy files into one of its folders."""
        with faults(self._confined.image):
            self._made.put_archive(folder, tar_stream(entries, uid=self._confined.uid))

    def run(self) -> int:
        """Start it, hand on what it prints while it does, and give its exit code."""
        with faults(self._confined.image):
            streams = self._made.attach(stream=True, demux=True)
            self._made.start()
            for out, err in streams:
                for data, stream in ((out, sys.stdout), (err, sys.stderr)):
                    if data:
                        stream.buffer.write(data)
                        stream.flush()
            return int(self._made.wait()["StatusCode"])

    @property
    def _made(self) -> DockerContainer:
        assert self._container is not None, "used outside its block"  # noqa: S101 - a fault of ours
        return self._container
