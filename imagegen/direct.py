"""From an image's name to the image without an engine: its plan and its layers."""

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
from imagegen.build import Built, Draft
from imagegen.compression import Compression
from imagegen.engines.connect import docker_engine
from imagegen.engines.model import BuiltImage, Facts
from imagegen.engines.oci import Attest, DirectEngine, check_supported
from imagegen.errors import NotBuiltError, UnfitBaseError, UnsupportedError
from imagegen.layers import Layer
from imagegen.live import Progress
from imagegen.oci import Image
from imagegen.places import DOCKER, Output, check_place, deliver, deliver_index, load, stays
from imagegen.plan import ImagePlan
from imagegen.platforms import ImageIndex
from imagegen.push import Push
from imagegen.rootfs import RootFs, read_rootfs
from imagegen.spec import DebianBase, ImageSpec, machine_of
from mirror.config import Config
from mirror.console import say
from mirror.layout import Layout

if TYPE_CHECKING:
    from imagegen.engines.docker import DockerEngine


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
    check_place(output, len(machines))
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
        place, size = deliver_index(engine.layout, plan, whole, output)
    elif push and not output:
        place, size = stays(engine.layout), images[0].size
    else:
        place, size = deliver(engine.layout, plan, images[0], output, progress)
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


def _standing(
    config: Config, spec: ImageSpec, engine: DirectEngine, draft: Draft, progress: Progress
) -> _Standing:
    check_supported(draft.plan, draft.target)
    image = engine.layout.find(draft.plan.reference)
    # One that an earlier lockstock made may have no evidence.
    if image and engine.layout.referrers(image.digest):
        return _Standing(image=image, fresh=False)
    return _Standing(image=_assemble(config, spec, engine, draft, progress), fresh=True)


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


def bring_built(config: Config, spec: ImageSpec, docker: DockerEngine, progress: Progress) -> None:
    """Load what was built of the stock as it is and went elsewhere only: the engine's newest is then it."""
    try:
        plan, image = find_built(config, spec, progress)
    except NotBuiltError:
        return
    if docker.find(plan.reference) is None:
        load(docker, direct_engine(config).layout, plan, image, progress)


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
