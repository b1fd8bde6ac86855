"""The Docker engine, through its SDK: images are found, imported and tagged here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.errors import BuildError as DockerBuildError
from docker.models.images import Image
from requests.exceptions import RequestException

from imagegen.archive import Entry, tar_stream
from imagegen.context import guest_program
from imagegen.engines.model import BuiltImage, Facts
from imagegen.errors import BaseError, BuildError, EngineUnavailableError, UnfitBaseError
from imagegen.live import Progress
from imagegen.plan import REPOSITORY, Base
from mirror.console import human_size

# Seconds. An engine answers at once that it is there, but between two lines of a build or a check
# nothing may be heard for long.
_GREETING = 20
_SILENCE = 3600
# An image's own check of its health would be run by the engine, beside what runs in it and by no filter seen.
NO_CHECK = {"test": ["NONE"]}


class DockerEngine:
    """One engine, that of DOCKER_HOST or of this host."""

    def __init__(self) -> None:
        """Connect. Raises EngineUnavailableError."""
        try:
            self.client = docker.from_env(timeout=_GREETING)
            self.client.api.timeout = _SILENCE
        except (DockerException, RequestException) as error:
            raise EngineUnavailableError(
                f"no Docker engine answers: {_innermost(error)}",
                hint="start one (systemctl start docker), install one (apt-get install docker.io), "
                "join the group docker, or set DOCKER_HOST",
            ) from error

    def find(self, reference: str) -> BuiltImage | None:
        """Give the image of that name, if the engine has it."""
        with faults(reference):
            try:
                image = self.client.images.get(reference)
            except ImageNotFound:
                return None
            return BuiltImage(id=str(image.id), size=int(image.attrs["Size"]))

    def named(self, base: Base) -> Base:
        """Give a base by a name of this engine, where it has only the id of its image.

        BuildKit would take an id for a name, and ask Docker's registry for it.
        """
        if base.reference != base.digest:
            return base
        repository, tag = f"{REPOSITORY}/base", base.digest.removeprefix("sha256:")
        self.tag(base.reference, repository, tag)
        return replace(base, reference=f"{repository}:{tag}")

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image one more name."""
        with faults(image):
            self.client.images.get(image).tag(repository, tag)

    @property
    def stores_content(self) -> bool:
        """Say whether images lie in containerd's content store, which wants every blob as it is."""
        with faults("the engine"):
            return uses_containerd(self.client.info())

    def held_layers(self, diff_ids: Sequence[str]) -> int:
        """Say how many of these layers, from the lowest up, lie so on each other in the engine."""
        with faults("images"):
            stacks = [
                (image.attrs.get("RootFS") or {}).get("Layers") or [] for image in self.client.images.list()
            ]
        return max((_common(stack, diff_ids) for stack in stacks), default=0)

    def load(self, entries: Iterable[Entry], reference: str) -> None:
        """Load an image from the files of an archive. Raises BuildError."""
        with faults(reference):
            # requests sends what can be iterated in chunks as it comes
            answer = self.client.api.load_image(tar_stream(entries))  # type: ignore[no-untyped-call]
            for event in answer:
                if "error" in event:
                    raise BuildError(str(event["error"]).strip(), where=reference)

    def held(self, reference: str) -> Base | None:
        """Give an image that the engine has, pinned by its digest. Raises BaseError."""
        with _of_base(reference):
            try:
                return _pinned(reference, self.client.images.get(reference))
            except ImageNotFound:
                return None

    def resolve(self, reference: str, progress: Progress) -> Base:
        """Pin an image that the engine has, or a registry gives, by its digest. Raises BaseError."""
        return self.held(reference) or self._pulled(reference, progress)

    def renew(self, reference: str, progress: Progress) -> Base:
        """Pin what a registry gives now. Raises BaseError where neither that nor the engine has it.

        An image that was made in the engine is no registry's, and stays what it is.
        """
        held = self.held(reference)
        if held and held.reference == held.digest:
            return held
        try:
            return self._pulled(reference, progress)
        except BaseError as error:
            if held is None:
                raise
            progress.step(f"note: docker:{reference} stays as the engine has it: {error.reason}")
            return held

    def _pulled(self, reference: str, progress: Progress) -> Base:
        progress.step(f"pulling the base {reference}")
        with _of_base(reference):
            self._pull(reference, progress)
            return _pinned(reference, self.client.images.get(reference))

    def save(self, reference: str) -> Iterator[bytes]:
        """Give an image as the archive that `docker save` writes."""
        with faults(reference):
            yield from self.client.images.get(reference).save()

    def _pull(self, reference: str, progress: Progress) -> None:
        name, tag = (reference, None) if "@" in reference else _split_tag(reference)
        for event in self.client.api.pull(name, tag=tag, stream=True, decode=True):
            if "error" in event:
                raise DockerException(str(event["error"]))
            progress.detail(f"{event.get('status', '')} {event.get('progress', '')}")

    def load_base(self, base: Base, tarball: Path, progress: Progress) -> None:
        """Import a root file system under the base's reference, unless it is there."""
        if self.find(base.reference):
            return
        progress.detail(f"importing {human_size(tarball.stat().st_size)} into the engine")
        repository, _, tag = base.reference.rpartition(":")
        with faults(base.name), tarball.open("rb") as file:
            answer = self.client.api.import_image_from_data(file, repository=repository, tag=tag)
            for line in answer.splitlines():
                if "error" in (event := json.loads(line)):
                    raise BaseError(f"the engine did not take it: {event['error']}", where=base.name)

    def probe(self, base: Base) -> Facts:
        """Ask a base what it has, in a container without a network. Raises UnfitBaseError."""
        with faults(base.name):
            try:
                output = self._probed(base.reference)
            except (docker.errors.ContainerError, APIError) as error:
                raise UnfitBaseError(
                    f"python3 does not run in it: {_innermost(error)}",
                    where=base.name,
                    hint="a base needs Python 3 with venv, git and ca-certificates",
                ) from error
        return facts_of(output, base.name)

    def _probed(self, image: str) -> bytes:
        """Run the probe; the container goes also where it cannot even be started."""
        container = self.client.containers.create(
            image,
            ["-I", "-c", guest_program("probe.py").decode()],
            entrypoint="python3",
            network_mode="none",
            use_config_proxy=False,
        )
        try:
            container.start()
            code = container.wait()["StatusCode"]
            output = container.logs(stdout=True, stderr=bool(code))
            if code:
                said = output.decode(errors="replace")
                raise docker.errors.ContainerError(container, code, "python3", image, said)
            return bytes(output)
        finally:
            container.remove(force=True)

    def gateways(self) -> tuple[str, ...]:
        """Give the addresses under which this engine's networks reach its host."""
        with faults("networks"):
            pools = [
                pool
                for network in self.client.networks.list()
                for pool in (network.attrs.get("IPAM") or {}).get("Config") or ()
            ]
            return tuple(sorted({pool["Gateway"] for pool in pools if pool.get("Gateway")}))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Count with how many equal items both begin."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _pinned(reference: str, image: Image) -> Base:
    repository = _split_tag(reference.partition("@")[0])[0]
    digests = sorted(image.attrs.get("RepoDigests") or ())
    pinned = next((digest for digest in digests if digest.partition("@")[0] == repository), None)
    if pinned:
        return Base(name=reference, reference=pinned, digest=pinned.partition("@")[2])
    return Base(name=reference, reference=str(image.id), digest=str(image.id))


def facts_of(output: bytes, where: str) -> Facts:
    """Read what the probe printed, after whatever the base's Python prints first. Raises UnfitBaseError."""
    try:
        return Facts(**json.loads(output.splitlines()[-1]))
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise UnfitBaseError(
            "its python3 does not print what it is asked for",
            where=where,
            hint="look for a sitecustomize or a .pth file of the base that prints",
        ) from error


def _split_tag(reference: str) -> tuple[str, str]:
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")


@contextmanager
def _of_base(reference: str) -> Iterator[None]:
    """Turn what the SDK raises into errors of a base."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise BaseError(
            f"the engine cannot have it: {_innermost(error)}",
            where=f"docker:{reference}",
            hint="check the name, `docker login`, and that the engine reaches the registry",
        ) from error


@contextmanager
def faults(where: str) -> Iterator[None]:
    """Turn what the SDK raises into errors of ours."""
    try:
        yield
    except (APIError, DockerBuildError) as error:
        raise BuildError(f"the engine refuses: {_innermost(error)}", where=where) from error
    except (DockerException, RequestException) as error:
        raise EngineUnavailableError(
            f"the Docker engine stopped answering: {_innermost(error)}",
            where=where,
            hint="look at the engine's own log (journalctl -u docker), then run again",
        ) from error


def _innermost(error: BaseException) -> str:
    """Give the part of a chain of errors that says something."""
    if isinstance(error, APIError) and error.explanation:
        return str(error.explanation)
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # one of them is there
    return str(error) or type(error).__name__


def uses_containerd(info: Mapping[str, Any]) -> bool:
    """Say whether an engine that tells this of itself keeps its images in containerd."""
    return ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or [])
