"""What each layer of an image holds: stocked files in their places, and what belongs to none of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name

from imagegen import context
from imagegen.archive import Entry, Piece, tar
from imagegen.bytecode import Compiler
from imagegen.claims import Claims, check_together
from imagegen.environment import owner, venv_entries
from imagegen.layerplan import Group
from imagegen.layers import Content
from imagegen.nodemodules import NodeModules, parts, posix
from imagegen.npmcache import tarball_entry
from imagegen.oci import EPOCH
from imagegen.plan import HOME, ImagePlan, NodeProject
from imagegen.rootfs import RootFs
from imagegen.sdists import BuiltWheel
from imagegen.wheels import Venv, program_entries, unpack
from lockfiles.model import Ecosystem
from lockfiles.target import Target
from mirror.snapshot import Stocked
from mirror.store import Store

_STOCK = f"{HOME.lstrip('/')}/wheels"
_TOOLS = f"{HOME.lstrip('/')}/tools/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the layers of one image are made with."""

    plan: ImagePlan
    target: Target
    venv: Venv
    root: RootFs
    store: Store
    compiler: Compiler | None
    node: NodeModules
    built: Mapping[str, BuiltWheel]

    @property
    def python(self) -> list[str]:
        """Say what layers with modules depend on: where they lie, and what compiles them."""
        compiled = [self.compiler.build] if self.compiler else []
        return [self.venv.root, self.venv.python, self.plan.user, *compiled]

    @property
    def seeds(self) -> list[str]:
        """Name the base's wheels that `venv` installs and nothing takes the place of."""
        names = {canonicalize_name(file.name) for file in self.plan.install}
        return [name for name in self.root.wheels() if _seeded(name, self.venv.python, names)]

    def modules(self, entries: Collection[Entry]) -> list[Entry]:
        """Give the entries, and the compiled form of their modules where that is wanted."""
        if not self.compiler:
            return list(entries)
        return [*entries, *self.compiler.compiled(entry for entry in entries if "/lib/python" in entry.path)]

    def tar(self, entries: Iterable[Entry]) -> Iterator[Piece]:
        """Give the layer's tar, in which all have one time."""
        return tar(entries, lambda path: owner(self.plan.user, path), time=EPOCH)

    def recipe(self, file: Stocked) -> list[object]:
        """Say what a stocked file's part of a layer depends on."""
        built = [self.built[file.sha256].sha256] if file.sha256 in self.built else []
        lean = [] if self.plan.wheels else ["without the file"]
        return [file.filename, file.sha256, file in self.plan.install, file == self.plan.uv, *built, *lean]

    def path(self, file: Stocked) -> Path:
        """Say where a stocked file lies. Raises NotStockedError."""
        return held(self.store, file)


def held(store: Store, file: Stocked) -> Path:
    """Say where a stocked file lies. Raises NotStockedError where it does not, or not whole."""
    path = store.path(file.sha256)
    context.check_held(file, path)
    return path


def venv_content(work: Work, seeds: Sequence[str]) -> Content:
    """Give the environment with what `venv` installs, and nothing else. Raises WheelError."""
    entries = list(venv_entries(work.root, work.venv))
    claims = [Claims.of_environment(entries)]
    with tempfile.TemporaryDirectory() as folder:
        for name in seeds:
            path = Path(folder, name)
            path.write_bytes(work.root.wheels()[name])
            unpacked = unpack(path, name, work.venv, work.target)
            claims.append(Claims.of(name, unpacked))
            entries += unpacked.entries
    return _content(work, entries, claims)


def group_content(work: Work, files: Group) -> Content:
    """Give the layer of some stocked files. Raises WheelError, CollisionError and NotStockedError."""
    entries: list[Entry] = []
    claims: list[Claims] = []
    for file in files:
        placed = _PLACED[Ecosystem(file.ecosystem)](work, file)
        entries += placed.entries
        claims += placed.claims
    return _content(work, entries, claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """What one stocked file becomes in an image."""

    entries: Sequence[Entry]
    claims: Sequence[Claims] = ()


def _wheel(work: Work, file: Stocked) -> _Placed:
    path = work.path(file)
    stock = Entry(path=f"{_STOCK}/{file.filename}", content=path, packed=True)
    entries = [stock] if work.plan.wheels else []
    claims: list[Claims] = []
    if file in work.plan.install:
        built = work.built.get(file.sha256)
        wheel, name = (built.path, built.filename) if built else (path, file.filename)
        unpacked = unpack(wheel, name, work.venv, work.target)
        claims.append(Claims.of(name, unpacked))
        entries += unpacked.entries
    if file == work.plan.uv:
        entries += program_entries(path, file.filename, _TOOLS, "uv")
    return _Placed(entries=entries, claims=claims)


def _tarball(work: Work, file: Stocked) -> _Placed:
    return _Placed(entries=[_in_home(context.in_cache(tarball_entry(work.path(file))))])


_PLACED: Mapping[Ecosystem, Callable[[Work, Stocked], _Placed]] = {
    Ecosystem.PYPI: _wheel,
    Ecosystem.NPM: _tarball,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A layer of what stands for many packages: what decides it, and its entries."""

    recipe: Sequence[object]
    comment: str
    entries: Callable[[Work], Iterable[Entry]]


def shared_parts(plan: ImagePlan) -> tuple[Part, ...]:
    """Give the layers whose content belongs to no single package."""
    if not plan.npm:
        return ()
    files = [[file.name, file.version, file.filename, file.sha256, file.url] for file in plan.npm]
    index = Part(
        recipe=["npm index", files],
        comment="npm's index",
        entries=lambda work: map(_in_home, context.npm_index(work.plan, work.store)),
    )
    return (index, *(part for project in plan.node for part in _node_parts(plan, project)))


def _node_parts(plan: ImagePlan, project: NodeProject) -> Iterator[Part]:
    files = sorted(file.sha256 for file in plan.npm)
    count = parts(plan)
    for number in range(count):
        yield Part(
            recipe=["node_modules", plan.base.digest, asdict(project), files, number, count],
            comment=f"node_modules of {posix(project)}, {number + 1} of {count}",
            entries=partial(_node_part, project=project, number=number),
        )


def _node_part(work: Work, project: NodeProject, number: int) -> Iterator[Entry]:
    return work.node.part(project, number)


def _in_home(entry: Entry) -> Entry:
    return replace(entry, path=f"{HOME.lstrip('/')}/{entry.path}")


def _content(work: Work, entries: Iterable[Entry], claims: Sequence[Claims]) -> Content:
    check_together(claims, scripts=False)
    unique = {entry.path: entry for entry in entries}
    return Content(
        tar=work.tar(work.modules(unique.values())), facts={"claims": [claim.plain() for claim in claims]}
    )


def _seeded(filename: str, python: str, replaced: Collection[str]) -> bool:
    """Say whether `venv` of this Python installs the wheel, and nothing takes its place."""
    name = canonicalize_name(filename.partition("-")[0])
    usual = ("pip",) if int(python.partition(".")[2]) >= 12 else ("pip", "setuptools")
    return name in usual and name not in replaced
