"""A container without a network, in which an image is tried out and which never outlives that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType

from docker.errors import APIError, NotFound
from docker.models.containers import Container as DockerContainer

from imagegen.archive import Entry, tar_stream
from imagegen.engines.docker import DockerEngine, faults
from imagegen.engines.model import Ran

_LABEL = "io.lockstock.verify"
_LIFE = 4 * 3600
_KEPT = 64 * 1024
_PATIENCE = 60
# What an engine answers of a container that is not there any more, or not for long.
_GONE = (404, 409)
# The exit code of a command for which there was no container, and what is said of it.
_LOST, _ENDED = 125, "\nthe container has ended: something in it has killed its first process"


class Container:
    """A context manager: the container lives inside the block.

    `owner` names who may use it at one time. What a killed run of the same owner left is removed
    first, and the engine itself removes what outlives its few hours.
    """

    def __init__(self, engine: DockerEngine, image: str, owner: str) -> None:
        self._client = engine.client
        self._image = image
        self._owner = owner
        self._container: DockerContainer | None = None

    def __enter__(self) -> Container:
        """Start it. Raises BuildError when the engine refuses."""
        with faults(self._image):
            for leftover in self._client.containers.list(
                all=True, filters={"label": f"{_LABEL}={self._owner}"}
            ):
                _remove(leftover)
            self._container = self._client.containers.create(
                self._image,
                ["sleep", str(_LIFE)],
                network_mode="none",
                labels={_LABEL: self._owner},
                auto_remove=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                use_config_proxy=False,
            )
            self._container.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        if self._container is not None:
            with faults(self._image):
                _remove(self._container)

    def put(self, entries: Iterable[Entry], folder: str, *, uid: int) -> None:
        """Copy files into a folder of the container."""
        with faults(self._image):
            self._running.put_archive(folder, tar_stream(entries, uid=uid))

    def run(self, command: Sequence[str], *, limit: int) -> Ran:
        """Run a command as the image's user for at most `limit` seconds; stdout and stderr come as one."""
        started = time.monotonic()
        with faults(self._image):
            try:
                code, said = self._run(["timeout", "-k", "5", str(limit), *command])
            except APIError as error:
                if error.status_code not in _GONE:
                    raise
                code, said = _LOST, ""
            if code and not self._is_alive():
                said += _ENDED
        return Ran(code=code, output=said, seconds=time.monotonic() - started)

    def _run(self, words: Sequence[str]) -> tuple[int, str]:
        api, kept = self._client.api, b""
        handle = api.exec_create(self._running.id, words)["Id"]
        for chunk in api.exec_start(handle, stream=True):
            kept = (kept + chunk)[-_KEPT:]
        code = api.exec_inspect(handle)["ExitCode"]
        return _LOST if code is None else int(code), kept.decode(errors="replace")

    def _is_alive(self) -> bool:
        try:
            self._running.reload()
        except NotFound:
            return False
        return self._running.status == "running"

    @property
    def _running(self) -> DockerContainer:
        assert self._container is not None, "used outside its block"  # noqa: S101 - a fault of ours
        return self._container


def _remove(container: DockerContainer) -> None:
    """Remove a container, and wait for one that is just going by itself."""
    try:
        container.remove(force=True)
    except NotFound:
        return
    except APIError as error:
        if error.status_code not in _GONE:
            raise
        with suppress(NotFound):
            container.wait(condition="removed", timeout=_PATIENCE)
