"""A network that has one route, which ends in it: what is sent there is told to the gate and refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from docker.errors import NotFound
from docker.models.containers import Container as DockerContainer
from docker.types import Mount

from imagegen.engines.docker import NO_CHECK, DockerEngine, faults
from imagegen.errors import BuildError
from imagegen.plan import BASE_PYTHON

_LABEL = "io.lockstock.watch"
_DEVICE = "/dev/net/tun"
# Leads to the watch, as every address does; of a range that no one has (RFC 5737).
_NAME_SERVER = "192.0.2.53"
_HOST = "sandbox"
_IPV6 = {"net.ipv6.conf.all.disable_ipv6": "0"}
_PROCESSES = 16
_STOP_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Whose network is watched: an image that has Python, and `mounts` with the program and its socket."""

    image: str
    owner: str
    program: str
    socket: str
    mounts: Mapping[str, Path]


class Watch:
    """A container with an empty network that another can be put into, and NET_ADMIN over nothing else."""

    def __init__(self, engine: DockerEngine, watched: Watched) -> None:
        self._client = engine.client
        self._watched = watched
        self._container: DockerContainer | None = None

    @property
    def network(self) -> str:
        """What a container is given as its network to be in this one."""
        assert self._container is not None, "used before it was started"  # noqa: S101 - a fault of ours
        return f"container:{self._container.id}"

    def start(self) -> None:
        """Start it, without IPv6 where the engine's kernel has none. Raises BuildError."""
        with faults(self._watched.image):
            for leftover in self._client.containers.list(
                all=True, filters={"label": f"{_LABEL}={self._watched.owner}"}
            ):
                leftover.remove(force=True, v=True)
        try:
            self._start(_IPV6)
        except BuildError:
            self.remove()
            self._start({})

    def stop(self) -> None:
        """Let it tell what it still has to tell, and end it."""
        with faults(self._watched.image), suppress(NotFound):  # in this order: faults would make it another
            if self._container is not None:
                self._container.stop(timeout=_STOP_SECONDS)

    def remove(self) -> None:
        """Remove it."""
        with faults(self._watched.image), suppress(NotFound):  # in this order: faults would make it another
            if self._container is not None:
                self._container.remove(force=True, v=True)
        self._container = None

    def _start(self, sysctls: Mapping[str, str]) -> None:
        watched = self._watched
        with faults(watched.image):
            self._container = self._client.containers.create(
                watched.image,
                [*BASE_PYTHON, "-I", "-S", watched.program, watched.socket],
                entrypoint=[""],
                labels={_LABEL: watched.owner},
                network_mode="none",
                dns=[_NAME_SERVER],
                hostname=_HOST,
                extra_hosts={_HOST: "127.0.0.1"},  # or a look-up of its own name would be an attempt
                sysctls=dict(sysctls),
                devices=[f"{_DEVICE}:{_DEVICE}:rwm"],
                mounts=[
                    Mount(inside, str(path), type="bind", read_only=True)
                    for inside, path in watched.mounts.items()
                ],
                read_only=True,
                user="0",
                cap_drop=["ALL"],
                cap_add=["NET_ADMIN"],
                security_opt=["no-new-privileges"],
                pids_limit=_PROCESSES,
                healthcheck=NO_CHECK,
                use_config_proxy=False,
            )
            self._container.start()
