"""Image spec and snapshot → what the image is made of. Pure, and the same for every engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from packaging.utils import canonicalize_name

from imagegen.compression import Compression
from imagegen.errors import ConflictError, GitPackageError, NotStockedError
from imagegen.spec import DebianBase, ImageSpec
from lockfiles.model import Ecosystem
from lockfiles.target import Target
from mirror.config import BUILD_SUFFIX, TOOLS
from mirror.snapshot import Snapshot, Stocked, covers

REPOSITORY = "lockstock"
WORKSPACE = "/workspace"
HOME = "/opt/lockstock"
UID = 1000
# It reaps what a sandbox's programs leave behind, also below an init of the engine, and passes signals on.
INIT = ("/usr/bin/tini", "-s", "--")
# The base's own Python, whatever PATH says: a package may put a python3 or a pyvenv.cfg into the environment.
BASE_PYTHON = (
    "/bin/sh", "-c", 'exec "$(PATH=/usr/local/bin:/usr/bin:/bin; command -v python3)" "$@"', "sh"
)  # fmt: skip
_UV_LOCK = "uv.lock"
_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base that was found or made: how the spec calls it, how the engine does, and its digest."""

    name: str
    reference: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProject:
    """A folder whose node_modules an image has, from its workspace, and the texts that npm reads for it.

    `files` are by their path from the workspace; `scripts` are the packages with install scripts,
    none of which is run.
    """

    folder: str
    files: Mapping[str, str]
    scripts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """Everything that decides an image's content.

    `install` is installed in the virtual environment, `stock` lies beside it as files (and holds
    `install`) unless `wheels` is false, `build` is what sdists are built with, `uv` is the tool that
    goes on PATH, `npm` are the tarballs in npm's cache, `node` are the projects whose node_modules it
    has, `layers` is the most layers it may have, and `compile` whether modules are byte-compiled.
    `digest` is the sha256 of all the rest and of the templates.
    """

    name: str
    target: str
    base: Base
    locks: tuple[str, ...]
    install: tuple[Stocked, ...]
    stock: tuple[Stocked, ...]
    build: tuple[Stocked, ...]
    uv: Stocked | None
    npm: tuple[Stocked, ...]
    node: tuple[NodeProject, ...]
    user: str
    shell: str
    entrypoint: tuple[str, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    layers: int
    compile: bool
    wheels: bool = True
    compression: Compression = Compression.GZIP
    digest: str = ""

    @property
    def repository(self) -> str:
        """The image's name without a tag."""
        return f"{REPOSITORY}/{self.name}"

    @property
    def version(self) -> str:
        """The short form of the digest: the tag that stands for exactly this content."""
        return self.digest[:_DIGITS]

    @property
    def reference(self) -> str:
        """Repository and content tag."""
        return f"{self.repository}:{self.version}"

    @property
    def path(self) -> tuple[str, ...]:
        """The folders of programs that come first on PATH."""
        return (f"{HOME}/venv/bin", *([f"{HOME}/bin"] if self.npm else []))

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables of the image but for PATH, those of the spec last."""
        npm = {"NPM_CONFIG_GLOBALCONFIG": f"{HOME}/npmrc", "NODE_USE_ENV_PROXY": "1"} if self.npm else {}
        return {"LANG": "C.UTF-8", "VIRTUAL_ENV": f"{HOME}/venv", **npm, **self.env}

    @property
    def present(self) -> tuple[Stocked, ...]:
        """The files of `stock` that the image has anything of: all, or what is installed and uv."""
        return tuple(f for f in self.stock if self.wheels or f in self.install or f == self.uv)

    @property
    def size(self) -> int:
        """Bytes of all stocked files that the image is made of."""
        return sum(artifact.size for artifact in (*self.present, *self.npm))


def make_plan(
    spec: ImageSpec,
    snapshot: Snapshot,
    target: Target,
    base: Base,
    *,
    templates: str,
    node: tuple[NodeProject, ...] = (),
) -> ImagePlan:
    """Plan an image; `templates` is the digest of the templates it is rendered from.

    Raises NotStockedError where the snapshot lacks a lock or target, ConflictError where two locks
    do not go together, and GitPackageError where npm would have to reach a git repository.
    """
    _check_stocked(spec, snapshot, target)
    chosen = snapshot.chosen(spec.locks, str(target))
    install = _of(Ecosystem.PYPI, chosen)
    companions = [lock + BUILD_SUFFIX for lock in spec.locks]
    tools = _of(Ecosystem.PYPI, snapshot.chosen([TOOLS], str(target)))
    stock = _of(Ecosystem.PYPI, snapshot.chosen([*spec.locks, *companions, TOOLS], str(target)))
    npm = _of(Ecosystem.NPM, chosen)
    _check_one_version(install)
    _check_no_git(npm)
    _check_one_file(stock)
    plan = ImagePlan(
        name=spec.name,
        target=str(target),
        base=base,
        locks=spec.locks,
        install=install,
        stock=stock,
        build=_of(Ecosystem.PYPI, snapshot.chosen(companions, str(target))),
        uv=next((tool for tool in tools if canonicalize_name(tool.name) == "uv"), None),
        npm=npm,
        node=node,
        user=spec.user,
        shell="/bin/bash" if isinstance(spec.base, DebianBase) else "/bin/sh",
        entrypoint=INIT if isinstance(spec.base, DebianBase) else (),
        env={**_own_variables(spec, snapshot), **spec.env},
        labels=_labels(spec, snapshot, target, base),
        layers=spec.layers,
        compile=spec.compile,
        wheels=spec.wheels,
        compression=spec.compression,
    )
    return replace(plan, digest=_digest(plan, templates))


def _own_variables(spec: ImageSpec, snapshot: Snapshot) -> dict[str, str]:
    """Name the editor, and the environment that is in step with the one lock of uv already.

    uv takes the URLs of its lock whatever its settings say, so offline it must find nothing to do.
    """
    editor = {"EDITOR": "nano"} if isinstance(spec.base, DebianBase) else {}
    locks = [lock for lock in snapshot.locks if any(covers(name, lock.name) for name in spec.locks)]
    of_uv = [lock for lock in locks if lock.format == _UV_LOCK]
    return {**editor, **({"UV_PROJECT_ENVIRONMENT": f"{HOME}/venv"} if len(of_uv) == 1 else {})}


def _of(ecosystem: Ecosystem, artifacts: Iterable[Stocked]) -> tuple[Stocked, ...]:
    return tuple(artifact for artifact in artifacts if artifact.ecosystem == ecosystem)


def _labels(spec: ImageSpec, snapshot: Snapshot, target: Target, base: Base) -> dict[str, str]:
    """Give the annotations of the OCI image specification, and the digests of the locks.

    None tells a time, so that equal content has equal labels.
    """
    locks = {f"io.lockstock.lock.{lock.name}": f"sha256:{lock.sha256}" for lock in snapshot.locks
             if any(covers(name, lock.name) for name in spec.locks)}  # fmt: skip
    return {
        "io.lockstock.target": str(target),
        **locks,
        "org.opencontainers.image.base.digest": base.digest,
        "org.opencontainers.image.base.name": base.name,
        "org.opencontainers.image.description": f"{', '.join(spec.locks)}: locked dependencies, offline",
        "org.opencontainers.image.title": spec.name,
    }


def _deciding(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out what an index says of a file, and changes, without changing the image."""
    return {name: value for name, value in fields if name not in ("yanked", "upload_time")}


def _digest(plan: ImagePlan, templates: str) -> str:
    content = asdict(plan, dict_factory=_deciding) | {"digest": templates}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_stocked(spec: ImageSpec, snapshot: Snapshot, target: Target) -> None:
    for lock in spec.locks:
        targets = sorted({s.target for s in snapshot.selections if covers(lock, s.lock)})
        if str(target) not in targets:
            held = f"for {', '.join(targets)} only" if targets else "not at all"
            raise NotStockedError(
                f"the mirror's snapshot holds lock {lock!r} {held}, and {target} is needed",
                where=spec.name,
                hint="run `mirror refresh`",
            )


def _check_one_version(install: Iterable[Stocked]) -> None:
    seen: dict[str, Stocked] = {}
    for artifact in install:
        other = seen.setdefault(canonicalize_name(artifact.name), artifact)
        if other.sha256 != artifact.sha256:
            raise ConflictError(
                f"the locks of this image want both {other.filename} and {artifact.filename}",
                where=artifact.name,
                hint="lock one version for both, or make an image for each lock",
            )


def _check_no_git(npm: Iterable[Stocked]) -> None:
    for artifact in npm:
        if artifact.tree is not None:
            raise GitPackageError(
                "npm fetches it from its git repository whenever it installs it, and none can be reached "
                "from a sandbox",
                where=artifact.name,
            )


def _check_one_file(stock: Iterable[Stocked]) -> None:
    seen: dict[str, str] = {}
    for artifact in stock:
        if seen.setdefault(artifact.filename, artifact.sha256) != artifact.sha256:
            raise ConflictError(
                "two files with this name and different content are wanted in one image",
                where=artifact.filename,
                hint="lock the package from one index, or make an image for each lock",
            )
