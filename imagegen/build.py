"""From an image's name to the image: snapshot, base, plan, context, engine."""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen import bases, context
from imagegen.archive import Entry
from imagegen.baselock import read_pins
from imagegen.delivery import Pushed
from imagegen.engines.connect import docker_engine
from imagegen.engines.model import BuiltImage, Facts
from imagegen.errors import BaseError, BuildError, NotStockedError, UnfitBaseError
from imagegen.live import Progress
from imagegen.nodeproject import read_projects, tell_of_scripts
from imagegen.plan import REPOSITORY, Base, ImagePlan, make_plan
from imagegen.reference import Reference
from imagegen.spec import DebianBase, DockerBase, ImageSpec, OciBase, RegistryBase, choose_target
from lockfiles.target import Target
from mirror.config import Config
from mirror.inputs import outdated
from mirror.layout import Layout
from mirror.snapshot import Snapshot

if TYPE_CHECKING:
    from imagegen.baseimages import BaseImage
    from imagegen.engines.builders import Builder
    from imagegen.engines.docker import DockerEngine

LATEST = "latest"
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An image that stands, and whether this run made it.

    `place` is where it went, `digest` that of its manifest where it has one: engines make theirs
    only for a registry. `builder` is what ran its Dockerfile, if this run had one.
    """

    plan: ImagePlan
    image: BuiltImage
    fresh: bool
    seconds: float
    digest: str | None = None
    place: str = "docker"
    builder: str | None = None
    pushed: tuple[Pushed, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A plan, the snapshot it is of, its target, and the file its base comes from, if there is one.

    `image` is the base where that is an image with layers of its own.
    """

    plan: ImagePlan
    snapshot: Snapshot
    target: Target
    tarball: Path | None
    image: BaseImage | None = None


def build(config: Config, spec: ImageSpec, engine: DockerEngine, progress: Progress) -> Built:
    """Build an image, or find that its content stands already.

    Names are set only on a whole image, so a run that is killed leaves the earlier one in place.
    """
    from imagegen.engines.builders import choose_builder  # the SDK takes long to import

    started = time.monotonic()
    draft = make_draft(config, spec, engine, progress)
    plan = draft.plan
    image = engine.find(plan.reference)
    builder = None if image else choose_builder(engine)
    if builder:
        image = _make(config, draft, engine, builder, progress)
    assert image is not None  # noqa: S101 - for the type checker: there was none, or it was made
    if builder or engine.find(f"{plan.repository}:{LATEST}") != image:
        engine.tag(plan.reference, plan.repository, LATEST)
    return Built(
        plan=plan,
        image=image,
        fresh=builder is not None,
        seconds=time.monotonic() - started,
        builder=builder.name if builder else None,
    )


def render(config: Config, spec: ImageSpec, folder: Path, progress: Progress) -> ImagePlan:
    """Write the context that `build` sends into a folder."""
    _refuse_folder(spec)
    plan = make_draft(config, spec, None, progress).plan
    if isinstance(spec.base, DockerBase):
        plan = replace(plan, base=docker_engine().named(plan.base))
    context.write_context(_entries(config, plan), folder)
    return plan


def outdated_locks(config: Config, spec: ImageSpec) -> tuple[str, ...]:
    """Name the lock-files of an image that are no longer what the snapshot was made from."""
    return outdated(config, _snapshot(config), spec.locks)


def check_base(facts: Facts, plan: ImagePlan, target: Target) -> None:
    """Compare a base with what a plan and its target ask of it. Raises UnfitBaseError."""
    base = plan.base
    version = facts.python if target.python.count(".") == 2 else facts.python.rpartition(".")[0]
    if version != target.python:
        raise _unfit(base, f"it has Python {facts.python}, and the target is {target}")
    if facts.arch != target.arch or facts.libc != target.libc:
        raise _unfit(base, f"it is {facts.arch} with {facts.libc}, and the target is {target}")
    if facts.libc_version and _numbers(facts.libc_version) < _numbers(target.libc_version):
        raise _unfit(base, f"its {facts.libc} {facts.libc_version} is older than that of the target {target}")
    lacking = [
        name
        for name, there in (
            ("venv", facts.venv),
            ("git", facts.git),
            ("CA bundle", facts.ca),
            ("Node.js with npm, which a lock of this image needs", facts.node or not plan.npm),
        )
        if not there
    ]
    if lacking:
        raise _unfit(base, f"it lacks {', '.join(lacking)}")


def _unfit(base: Base, reason: str) -> UnfitBaseError:
    return UnfitBaseError(
        reason,
        where=base.name,
        hint="choose a base that fits, or set [targets] (python, glibc) in lockstock.toml to what it has "
        "and run `mirror refresh`; every base needs Python with venv, git and ca-certificates, "
        "and for locks of npm also node and npm on PATH",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def make_draft(
    config: Config, spec: ImageSpec, engine: DockerEngine | None, progress: Progress, machine: str = ""
) -> Draft:
    """Plan an image for a machine (`uname -m`), or this one, making or finding its base; nothing is built."""
    snapshot = _snapshot(config)
    target = choose_target(config, spec, machine or platform.machine())
    found = _base(config, spec, target, engine, progress)
    node = read_projects(config, spec, snapshot)
    plan = make_plan(spec, snapshot, target, found.base, templates=context.templates_digest(), node=node)
    return Draft(plan=plan, snapshot=snapshot, target=target, tarball=found.tarball, image=found.image)


def _snapshot(config: Config) -> Snapshot:
    snapshot = Layout(config.root).snapshots.current()
    if snapshot is None:
        raise NotStockedError(
            "the mirror is empty", where=str(config.root), hint="run `mirror refresh` first"
        )
    return snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A base, and what it is made of, as far as no engine holds that."""

    base: Base
    tarball: Path | None = None
    image: BaseImage | None = None


def _base(
    config: Config, spec: ImageSpec, target: Target, engine: DockerEngine | None, progress: Progress
) -> _Found:
    if isinstance(spec.base, DebianBase):
        return _debian(config, spec.base, target, progress)
    from imagegen.basesources import IMAGES, base_name, bring_base  # most images stand on Debian itself

    name = base_name(config, spec.base)
    pin = read_pins(config.file.parent).get(name)
    if isinstance(spec.base, DockerBase):
        return _Found(base=_resolved(engine or docker_engine(), spec.base.reference, pin, progress))
    if engine and isinstance(spec.base, RegistryBase):
        found = _resolved(engine, spec.base.reference, pin, progress)
        return _Found(base=replace(found, name=name))
    if engine:
        _refuse_folder(spec)
    image = bring_base(spec.base, name, pin, target.oci_platform, config.root / "bases" / IMAGES, progress)
    place = str(Reference.parse_pinned(spec.base.reference)) if isinstance(spec.base, RegistryBase) else name
    return _Found(
        base=Base(name=name, reference=f"{place}@{image.digest}", digest=image.digest),
        tarball=image.tarball,
        image=image,
    )


def _refuse_folder(spec: ImageSpec) -> None:
    """Raise BuildError where a Dockerfile would have to begin with a folder."""
    if isinstance(spec.base, OciBase):
        raise BuildError(
            "the Docker engine cannot build on a folder",
            where=str(spec.base),
            hint="use --engine oci, or load the image into the engine and write docker:REFERENCE",
        )


def _resolved(engine: DockerEngine, reference: str, pin: str | None, progress: Progress) -> Base:
    """Have an image in the engine; of one that is pinned and held, no registry is asked."""
    if pin is None:
        return engine.resolve(reference, progress)
    exact = re.sub(r"(:[\w.-]+)?(@.*)?$", "", reference) + f"@{pin}"
    pinned, named = engine.held(exact), engine.held(reference)
    if pinned is None and named and named.digest == pin:  # one that was made in the engine
        return named
    try:
        pinned = pinned or engine.resolve(exact, progress)
    except BaseError as error:
        raise BaseError(
            f"bases.lock pins it to {pin}, and {error.reason}",
            where=error.where,
            hint="run `imagegen lock-base` to take what its name stands for now",
        ) from error
    return Base(name=reference, reference=pinned.reference, digest=pin)


def _debian(config: Config, base: DebianBase, target: Target, progress: Progress) -> _Found:
    if target.arch != platform.machine():
        raise BaseError(
            f"a debian: base for {target.oci_platform} cannot be made on {platform.machine()}: the packages' "
            "own scripts would have to run",
            where=str(base),
            hint="take a base that is there for this platform (registry:HOST/NAME:TAG or oci:DIR), or build "
            "on such a machine",
        )
    tarball = _bootstrapped(config, base, progress)
    tag = f"{base.suite}-{tarball.sha256[:_DIGITS]}"
    reference = f"{REPOSITORY}/base:{tag}"
    return _Found(
        base=Base(name=str(base), reference=reference, digest=f"sha256:{tarball.sha256}"),
        tarball=tarball.path,
    )


def _bootstrapped(config: Config, base: DebianBase, progress: Progress) -> bases.Tarball:
    folder, locked = config.root / "bases", bases.locked_base(config, base)
    if locked is None:
        return bases.make(base, folder, progress)
    return bases.make_locked(base, locked, bases.debs_store(config), folder, progress)


def _make(
    config: Config, draft: Draft, engine: DockerEngine, builder: Builder, progress: Progress
) -> BuiltImage:
    plan = draft.plan
    if draft.tarball:
        engine.load_base(plan.base, draft.tarball, progress)
    check_base(engine.probe(plan.base), plan, draft.target)
    entries = _entries(config, replace(plan, base=engine.named(plan.base)))
    progress.step(f"building {plan.reference} from {plan.base.name} with {builder}")
    tell_of_scripts(plan, progress)
    builder.build(entries, plan.reference, progress)
    image = engine.find(plan.reference)
    assert image is not None  # noqa: S101 - for the type checker: a build that failed has raised
    return image


def _entries(config: Config, plan: ImagePlan) -> tuple[Entry, ...]:
    store = Layout(config.root).store
    npm = (*context.npm_cache(plan, store), *context.node_files(plan))
    return (*context.render(plan), *context.wheels(plan, store.path), *npm)
