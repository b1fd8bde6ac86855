"""From an image's name to the image without an engine: plan, layers, and where the image is to go."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen import build as building
from imagegen.bases import locked_base
from imagegen.build import LATEST, Built, Draft
from imagegen.compression import Compression
from imagegen.engines.connect import docker_engine
from imagegen.engines.model import BuiltImage, Facts
from imagegen.engines.oci import Attest, DirectEngine, check_supported
from imagegen.errors import (
    EngineUnavailableError,
    NotBuiltError,
    PlaceError,
    UnfitBaseError,
    UnsupportedError,
)
from imagegen.export import archive_entries, engine_entries, write_archive, write_index, write_layout
from imagegen.layers import Layer
from imagegen.live import Progress
from imagegen.oci import Image
from imagegen.plan import ImagePlan
from imagegen.platforms import ImageIndex
from imagegen.push import Push
from imagegen.rootfs import RootFs, read_rootfs
from imagegen.spec import DebianBase, ImageSpec, machine_of
from mirror.config import Config
from mirror.console import human_size, say
from mirror.layout import Layout

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """An image that stands in the mirror's layout, and whether this run made it."""

    image: Image
    fresh: bool


def build(
    config: Config,
    spec: ImageSpec,
    output: Output | None,
    progress: Progress,
    platforms: Sequence[str],
    push: Push,
) -> Built:
    """Build an image from the mirror alone, or find that it stands, and bring it to its place.

    It is for this host's platform, or for each of those named (linux/arm64), and then one index
    lists them. Its layers are pushed while others are made. Where it is neither pushed nor given an output,
    it is loaded into the Docker engine if one answers; it stays in the mirror's own image layout in any
    case. Raises UnsupportedError where a plan needs a container, PlaceError, and PushError: at once where
    nothing can be pushed, else when the image stands.
    """
    started, machines = time.monotonic(), _machines(config, platforms)
    _check_place(output, machines)
    signer, engine = _signer(spec), direct_engine(config, spec.compression, push.bring)
    drafts = [building.make_draft(config, spec, None, progress, machine) for machine in machines]
    plan = plan_of([draft.plan for draft in drafts])
    push.check(plan)
    made = [_standing(config, spec, engine, draft, progress) for draft in drafts]
    images = tuple(one.image for one in made)
    for image in images:
        signer(engine, image)
    whole = ImageIndex(images=images) if len(made) > 1 else None
    if whole:
        place, size = _deliver_index(engine, plan, whole, output)
    elif push and not output:
        place, size = _stays(engine), images[0].size
    else:
        place, size = _deliver(engine, plan, images[0], output, progress)
    return Built(
        plan=plan,
        image=BuiltImage(id=images[0].id, size=size),
        fresh=any(one.fresh for one in made),
        digest=whole.digest if whole else images[0].digest,
        place=place,
        pushed=push.finish(plan, images),
        seconds=time.monotonic() - started,
    )


def plan_of(plans: Sequence[ImagePlan]) -> ImagePlan:
    """Give the one plan, or the first with the name that stands for the content of all platforms."""
    if len(plans) == 1:
        return plans[0]
    digest = hashlib.sha256("".join(sorted(plan.digest for plan in plans)).encode()).hexdigest()
    return replace(plans[0], digest=digest, target=", ".join(sorted(plan.target for plan in plans)))


def _machines(config: Config, platforms: Sequence[str]) -> Sequence[str]:
    return list(dict.fromkeys(machine_of(config, platform) for platform in platforms)) or [""]


def _check_place(output: Output | None, machines: Sequence[str]) -> None:
    """Raise PlaceError, before anything is built, where the place cannot take what is asked for."""
    if output and output.kind != "oci" and len(machines) > 1:
        raise PlaceError(
            "an image of several platforms goes into a layout or a registry only",
            where=str(output),
            hint="use -o oci:DIR or --push HOST/NAME, or name one --platform",
        )
    if output and output.kind == "tar" and output.path and output.path.exists() and not output.path.is_file():
        what = "a folder" if output.path.is_dir() else "no plain file"
        raise PlaceError(f"it is {what}", where=str(output), hint="name a file after tar:")


def _standing(
    config: Config, spec: ImageSpec, engine: DirectEngine, draft: Draft, progress: Progress
) -> _Standing:
    check_supported(draft.plan, draft.target)
    image = engine.layout.find(draft.plan.reference)
    # One that an earlier lockstock made may have no evidence.
    if image and engine.layout.referrers(image.digest):
        return _Standing(image=image, fresh=False)
    return _Standing(image=_assemble(config, spec, engine, draft, progress), fresh=True)


def _deliver_index(
    engine: DirectEngine, plan: ImagePlan, whole: ImageIndex, output: Output | None
) -> tuple[str, int]:
    if output is None:
        return _stays(engine), whole.size
    assert output.path is not None  # noqa: S101 - for the type checker: _check_place lets only layouts by
    write_index(whole, engine.layout, _names(plan), output.path)
    return str(output), whole.size


def _stays(engine: DirectEngine) -> str:
    return f"oci:{engine.layout.root}"


def direct_engine(
    config: Config,
    compression: Compression = Compression.GZIP,
    stood: Callable[[Layer], object] = lambda layer: None,
) -> DirectEngine:
    """Give the engine that works in the folder of a mirror, and compresses new layers in this way.

    `stood` is called with each layer as soon as that stands.
    """
    return DirectEngine(config.root, Layout(config.root).store, compression, stood)


def find_all(
    config: Config, spec: ImageSpec, platforms: Sequence[str], progress: Progress
) -> tuple[ImagePlan, tuple[Image, ...]]:
    """Give the images of some platforms, or of this host's, and the plan that stands for all of them.

    Raises NotBuiltError.
    """
    machines = _machines(config, platforms)
    plans, images = zip(*(find_built(config, spec, progress, machine) for machine in machines), strict=True)
    return plan_of(plans), images


def find_built(
    config: Config, spec: ImageSpec, progress: Progress, machine: str = ""
) -> tuple[ImagePlan, Image]:
    """Give an image that the direct engine has built from what is stocked now. Raises NotBuiltError."""
    plan = building.make_draft(config, spec, None, progress, machine).plan
    image = direct_engine(config).layout.find(plan.reference)
    if image is None:
        raise NotBuiltError(
            "it is not in the mirror's image layout",
            where=plan.reference,
            hint=f"run `imagegen build {spec.name} --engine oci`",
        )
    return plan, image


def sign(config: Config, spec: ImageSpec, image: Image) -> None:
    """Sign the evidence of an image that stands with the key of its spec, if that names one.

    Raises SigningKeyError, and EvidenceError where it has no evidence.
    """
    _signer(spec)(direct_engine(config), image)


def _signer(spec: ImageSpec) -> Callable[[DirectEngine, Image], None]:
    """Read the key at once: a wrong one is found before anything is built."""
    if spec.sign is None:
        return lambda engine, image: None
    from imagegen.attestation import signatures  # cryptography takes long to import
    from imagegen.signing import load_signing_key

    key = load_signing_key(spec.sign)

    def attach(engine: DirectEngine, image: Image) -> None:
        held = engine.layout.referrers(image.digest)
        fresh = [one for one in signatures(image.subject, held, key) if one not in held]
        if fresh:
            engine.attach(fresh)

    return attach


def _assemble(
    config: Config, spec: ImageSpec, engine: DirectEngine, draft: Draft, progress: Progress
) -> Image:
    gc.freeze()  # what is there stays: to look through it again and again takes longer than it frees
    gc.set_threshold(50_000)
    tarball, image = draft.tarball, draft.image
    if tarball is None:
        from imagegen.basesources import IMAGES, export_base

        image = export_base(
            docker_engine(),
            draft.plan.base,
            draft.target.oci_platform,
            config.root / "bases" / IMAGES,
            progress,
        )
        tarball = image.tarball
    root = _root(draft, tarball)
    building.check_base(_facts(root), draft.plan, draft.target)
    evidence = partial(_evidence, config, spec, draft)
    return engine.build(draft.plan, draft.target, tarball, root, progress, evidence, image)


def _evidence(config: Config, spec: ImageSpec, draft: Draft) -> Attest:
    from imagegen.evidence import attest  # its libraries take long to import, and most builds change nothing
    from imagegen.licences import CACHE, known_licences

    locked = locked_base(config, spec.base) if isinstance(spec.base, DebianBase) else None
    debs = locked.debs if locked else ()
    files = (*draft.plan.present, *draft.plan.npm)
    licences = known_licences(files, Layout(config.root).store.path, config.root / "cache" / CACHE)
    return partial(attest, draft.plan, draft.snapshot, licences, debs)


def _root(draft: Draft, tarball: Path) -> RootFs:
    try:
        return read_rootfs(tarball)
    except UnfitBaseError as error:
        if draft.tarball:
            raise UnfitBaseError(error.reason, where=draft.plan.base.name, hint=error.hint) from error
        # The engine can run what cannot be read.
        raise UnsupportedError(
            f"the base is not understood: {error.reason}", where=draft.plan.name
        ) from error


def _facts(root: RootFs) -> Facts:
    return Facts(
        python=root.python,
        arch=root.arch,
        libc="glibc",
        libc_version=root.libc_version,
        git="git" in root.packages,
        venv=f"python{root.minor}-venv" in root.packages or (root.prefix != "/usr" and bool(root.wheels())),
        ca="ca-certificates" in root.packages,
        node={"node", "npm"} <= root.programs,
    )


def _deliver(
    engine: DirectEngine, plan: ImagePlan, image: Image, output: Output | None, progress: Progress
) -> tuple[str, int]:
    """Bring the image to its place; give that and the image's size there, in bytes."""
    names = _names(plan)
    if output and output.path:
        write = write_archive if output.kind == "tar" else write_layout
        write(image, engine.layout, names, output.path)
        return str(output), image.size
    try:
        docker = docker_engine()
    except EngineUnavailableError:
        if output:
            raise
        return _stays(engine), image.size
    return DOCKER, _load(docker, engine, image, names, progress)


def bring_built(config: Config, spec: ImageSpec, docker: DockerEngine, progress: Progress) -> None:
    """Load what was built of the stock as it is and went elsewhere only: the engine's newest is then it."""
    try:
        plan, image = find_built(config, spec, progress)
    except NotBuiltError:
        return
    if docker.find(plan.reference) is None:
        _load(docker, direct_engine(config), image, _names(plan), progress)


def _names(plan: ImagePlan) -> tuple[str, str]:
    return plan.reference, f"{plan.repository}:{LATEST}"


def _load(
    docker: DockerEngine, engine: DirectEngine, image: Image, names: tuple[str, ...], progress: Progress
) -> int:
    held = [docker.find(name) for name in names]
    if any(one is None or one.id != image.id for one in held):
        there = docker.held_layers([layer.diff_id for layer in image.layers])
        size = sum(layer.unpacked or layer.size for layer in image.layers[there:])
        progress.step(f"loading {human_size(size)} into the Docker engine")
        entries = (
            archive_entries(image, engine.layout, names)
            if docker.stores_content
            else engine_entries(image, engine.layout, names, there)
        )
        docker.load(entries, names[0])
    loaded = docker.find(names[0])
    return loaded.size if loaded else image.size


def build_with(
    config: Config,
    spec: ImageSpec,
    engine: str,
    output: Output | None,
    progress: Progress,
    platforms: Sequence[str],
    push: Push,
) -> Built:
    """Build with the engine `oci`, `docker`, or `auto`: whichever can.

    `auto` is the direct engine, and the Docker engine for what that cannot do: neither other platforms nor
    other places nor registries.
    """
    if engine == DOCKER:
        return _build_in_docker(config, spec, progress)
    try:
        return build(config, spec, output, progress, platforms, push)
    except UnsupportedError as error:
        if engine != "auto" or platforms or push or (output and output.kind != DOCKER):
            raise
        say(f"note: {error}; building with the Docker engine")
    return _build_in_docker(config, spec, progress)


def _build_in_docker(config: Config, spec: ImageSpec, progress: Progress) -> Built:
    if spec.sign:
        say("note: nothing is signed: only images of the direct engine carry evidence")
    return building.build(config, spec, docker_engine(), progress)
