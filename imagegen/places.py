"""Where an image goes that stands in the mirror's layout: an engine, another layout, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen.build import LATEST
from imagegen.engines.connect import docker_engine
from imagegen.errors import EngineUnavailableError, PlaceError
from imagegen.export import archive_entries, engine_entries, write_archive, write_index, write_layout
from imagegen.live import Progress
from imagegen.oci import Image, ImageLayout
from imagegen.plan import ImagePlan
from imagegen.platforms import ImageIndex
from mirror.console import human_size

if TYPE_CHECKING:
    from imagegen.engines.docker import DockerEngine

DOCKER = "docker"
_KINDS = ("oci", "tar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where an image goes: the Docker engine, an image layout (`oci`) or a file (`tar`)."""

    kind: str
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Output:
        """Read docker, oci:DIR or tar:FILE. Raises ValueError."""
        kind, _, path = text.partition(":")
        if text == DOCKER:
            return cls(kind=DOCKER)
        if kind in _KINDS and path:
            return cls(kind=kind, path=Path(path))
        raise ValueError(f"{text!r} is none of docker, oci:DIR and tar:FILE")

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.path else self.kind


def check_place(output: Output | None, platforms: int) -> None:
    """Raise PlaceError where a place cannot take an image of so many platforms, or is another thing."""
    if output and output.kind != "oci" and platforms > 1:
        raise PlaceError(
            "an image of several platforms goes into a layout or a registry only",
            where=str(output),
            hint="use -o oci:DIR or --push HOST/NAME, or name one --platform",
        )
    if output and output.kind == "tar" and output.path and output.path.exists() and not output.path.is_file():
        what = "a folder" if output.path.is_dir() else "no plain file"
        raise PlaceError(f"it is {what}", where=str(output), hint="name a file after tar:")


def deliver_index(
    layout: ImageLayout, plan: ImagePlan, whole: ImageIndex, output: Output | None
) -> tuple[str, int]:
    """Bring an image for several platforms to its place; give that and the image's size in bytes."""
    if output is None or output.path is None:
        return stays(layout), whole.size
    write_index(whole, layout, _names(plan), output.path)
    return str(output), whole.size


def stays(layout: ImageLayout) -> str:
    """Name the place of an image that is brought nowhere."""
    return f"oci:{layout.root}"


def deliver(
    layout: ImageLayout, plan: ImagePlan, image: Image, output: Output | None, progress: Progress
) -> tuple[str, int]:
    """Bring the image to its place; give that and the image's size there, in bytes."""
    names = _names(plan)
    if output and output.path:
        write = write_archive if output.kind == "tar" else write_layout
        write(image, layout, names, output.path)
        return str(output), image.size
    try:
        docker = docker_engine()
    except EngineUnavailableError:
        if output:
            raise
        return stays(layout), image.size
    return DOCKER, load(docker, layout, plan, image, progress)


def _names(plan: ImagePlan) -> tuple[str, str]:
    return plan.reference, f"{plan.repository}:{LATEST}"


def load(docker: DockerEngine, layout: ImageLayout, plan: ImagePlan, image: Image, progress: Progress) -> int:
    """Load an image into an engine that does not hold it under its names; give its size there, in bytes."""
    names = _names(plan)
    held = [docker.find(name) for name in names]
    if any(one is None or one.id != image.id for one in held):
        there = docker.held_layers([layer.diff_id for layer in image.layers])
        size = sum(layer.unpacked or layer.size for layer in image.layers[there:])
        progress.step(f"loading {human_size(size)} into the Docker engine")
        entries = (
            archive_entries(image, layout, names)
            if docker.stores_content
            else engine_entries(image, layout, names, there)
        )
        docker.load(entries, names[0])
    loaded = docker.find(names[0])
    return loaded.size if loaded else image.size
