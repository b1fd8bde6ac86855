"""The direct engine: an image's layers straight from the mirror's wheels, without a daemon or root."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from imagegen import context
from imagegen.archive import Entry, tar
from imagegen.baseimages import BaseImage, link_layers
from imagegen.bytecode import BasePython, Compiler, HostPython
from imagegen.claims import Claims, check_together
from imagegen.contents import Contents
from imagegen.engines.root import BaseRoot
from imagegen.environment import owner, settings_entries, venv_entries
from imagegen.errors import NotStockedError, UnsupportedError
from imagegen.layerplan import FIXED, Group, group
from imagegen.layers import Content, Layer, Layers
from imagegen.live import Progress
from imagegen.nodemodules import NodeModules, parts, posix
from imagegen.nodeproject import tell_of_scripts
from imagegen.npmcache import tarball_entry
from imagegen.oci import EPOCH, Image, ImageLayout, make_image
from imagegen.plan import HOME, ImagePlan, NodeProject
from imagegen.referrers import Referrer
from imagegen.rootfs import RootFs
from imagegen.wheels import Venv, program_entries, unpack
from lockfiles.model import Ecosystem
from lockfiles.target import Target
from mirror.snapshot import Stocked
from mirror.store import Store, disk_errors

_STOCK = f"{HOME.lstrip('/')}/wheels"
_TOOLS = f"{HOME.lstrip('/')}/tools/bin"
_CHUNK = 1 << 20
_KEPT = 3

Attest = Callable[[Image, Contents], Iterable[Referrer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer and what the wheels in it claim."""

    layer: Layer
    claims: tuple[Claims, ...]


class DirectEngine:
    """Assembles images in the folder of a mirror, from what its store holds."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root = root
        self._store = store
        self._layers = Layers(root)
        self.layout = ImageLayout(root / "oci")

    def build(
        self,
        plan: ImagePlan,
        target: Target,
        tarball: Path,
        root: RootFs,
        progress: Progress,
        attest: Attest,
        image: BaseImage | None = None,
    ) -> Image:
        """Make the image of a plan on the base in `tarball`, and add it to the mirror's layout.

        `attest` gives the evidence that is added with it. Where the base is an `image`, its layers
        are the lowest, as they are.
        Raises WheelError, CollisionError, LayerBudgetError, UnsupportedError and NotStockedError.
        """
        check_supported(plan)
        venv = Venv(root=f"{HOME}/venv", python=target.minor)
        shared = _shared(plan)
        more = len(image.layers) - 1 if image else 0
        groups = group((*plan.stock, *plan.npm), plan.layers, plan.name, FIXED + len(shared) + more)
        programs = BaseRoot(tarball, plan.base.digest, self._root / "roots", progress)
        compiler = _compiler(plan, target, root, programs, progress)
        with self._alone(), NodeModules(plan, self._store, programs, self._root / "node", progress) as node:
            work = _Work(
                plan=plan,
                target=target,
                venv=venv,
                root=root,
                store=self._store,
                compiler=compiler,
                node=node,
            )
            if compiler:
                compiler.prepare()
            progress.step(f"assembling {plan.reference} from {plan.base.name}")
            tell_of_scripts(plan, progress)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                # The longest first, so that no core waits for it at the end.
                base = pool.submit(self._base, plan, tarball, image)
                venv_layer = pool.submit(self._venv, work)
                packages = list(pool.map(lambda files: self._group(work, files), groups))
            check_together(claim for made in (venv_layer.result(), *packages) for claim in made.claims)
            made = [venv_layer.result().layer, *(one.layer for one in packages)]
            made += [self._part(work, part) for part in shared]
            lowest = base.result()
            layers = [*lowest, *made, self._settings(work)]
            settings = image.settings if image else {}
            whole = make_image(plan, layers, target.oci_platform.partition("/")[2], settings)
            # What the base lists is true of the last of its layers.
            contents = _contents(work, groups, layers[len(lowest) - 1 :])
            self.layout.add(whole, [plan.reference], attest(whole, contents))
            self.layout.prune(_KEPT)
            self._layers.forget_lost()
        return whole

    def attach(self, referrers: Iterable[Referrer]) -> None:
        """Add artifacts about images that stand."""
        with self._alone():
            self.layout.attach(referrers)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the layers, so that two runs do not write one list of images, and sweep leftovers."""
        folder = self._layers.blobs
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with (self._root / "oci" / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for leftover in folder.glob("*.tmp"):
                    leftover.unlink(missing_ok=True)
                yield

    def _base(self, plan: ImagePlan, tarball: Path, image: BaseImage | None) -> tuple[Layer, ...]:
        if image:
            with disk_errors(self._layers.blobs):
                link_layers(image, self._layers.blobs)
            return image.layers
        recipe, content = ["base", plan.base.digest], Content(tar=_chunks(tarball), facts={})
        return (self._layers.get(recipe, plan.base.name, lambda: content)[0],)

    def _venv(self, work: _Work) -> Made:
        seeds = work.seeds
        recipe = ["venv", work.plan.base.digest, work.python, seeds]
        return _made(self._layers.get(recipe, "the empty environment", lambda: _venv_content(work, seeds)))

    def _group(self, work: _Work, files: Group) -> Made:
        recipe = ["wheels", work.python, [work.recipe(file) for file in files]]
        comment = ", ".join(f"{file.name} {file.version}" for file in files)
        return _made(self._layers.get(recipe, comment, lambda: _group_content(work, files)))

    def _part(self, work: _Work, part: _Part) -> Layer:
        def content() -> Content:
            return Content(tar=work.tar(part.entries(work)), facts={})

        return self._layers.get([work.plan.user, *part.recipe], part.comment, content)[0]

    def _settings(self, work: _Work) -> Layer:
        entries = work.modules(list(settings_entries(work.plan, work.root, work.venv.python)))
        stream = b"".join(work.tar(entries))
        recipe = ["settings", hashlib.sha256(stream).hexdigest()]
        return self._layers.get(recipe, "settings", lambda: Content(tar=[stream], facts={}))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the layers of one image are made with."""

    plan: ImagePlan
    target: Target
    venv: Venv
    root: RootFs
    store: Store
    compiler: Compiler | None
    node: NodeModules

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

    def tar(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        return tar(entries, lambda path: owner(self.plan.user, path), time=EPOCH)

    def part(self, project: NodeProject, number: int) -> Iterator[Entry]:
        return self.node.part(project, number)

    def recipe(self, file: Stocked) -> list[object]:
        return [file.filename, file.sha256, file in self.plan.install, file == self.plan.uv]

    def path(self, file: Stocked) -> Path:
        path = self.store.path(file.sha256)
        if not path.is_file() or path.stat().st_size != file.size:
            raise NotStockedError(
                "the mirror's store does not hold this file, or not whole",
                where=file.filename,
                hint="run `mirror refresh`",
            )
        return path


def _compiler(
    plan: ImagePlan, target: Target, root: RootFs, programs: BaseRoot, progress: Progress
) -> Compiler | None:
    """Choose what compiles: the base's Python, or one of this host where that cannot run here."""
    if not plan.compile:
        return None
    if target.arch == platform.machine():
        return Compiler(BasePython(programs, root), target.minor)
    python = HostPython.find(target.minor)
    if python is None:
        progress.step(
            f"note: modules for {target.oci_platform} are not byte-compiled, for this host has no "
            f"Python {target.minor}"
        )
        return None
    return Compiler(python, target.minor)


def check_supported(plan: ImagePlan) -> None:
    """Raise UnsupportedError where a plan needs more than unpacking."""
    for file in plan.install:
        if not file.filename.endswith(".whl"):
            raise UnsupportedError(
                "it has to be built from source, and the direct engine only unpacks wheels",
                where=file.filename,
            )


def _venv_content(work: _Work, seeds: Sequence[str]) -> Content:
    entries = list(venv_entries(work.root, work.venv))
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        for name in seeds:
            path = Path(folder, name)
            path.write_bytes(work.root.wheels()[name])
            unpacked = unpack(path, name, work.venv, work.target)
            claims.append(Claims.of(name, unpacked))
            entries += unpacked.entries
    return _content(work, entries, claims)


def _group_content(work: _Work, files: Group) -> Content:
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


def _wheel(work: _Work, file: Stocked) -> _Placed:
    path = work.path(file)
    entries = [Entry(path=f"{_STOCK}/{file.filename}", content=path)]
    claims: list[Claims] = []
    if file in work.plan.install:
        unpacked = unpack(path, file.filename, work.venv, work.target)
        claims.append(Claims.of(file.filename, unpacked))
        entries += unpacked.entries
    if file == work.plan.uv:
        entries += program_entries(path, file.filename, _TOOLS, "uv")
    return _Placed(entries=entries, claims=claims)


def _tarball(work: _Work, file: Stocked) -> _Placed:
    entry = _in_home(context.in_cache(tarball_entry(work.path(file))))
    return _Placed(entries=[entry] if context.has_place(file) else [])


_PLACED: Mapping[Ecosystem, Callable[[_Work, Stocked], _Placed]] = {
    Ecosystem.PYPI: _wheel,
    Ecosystem.NPM: _tarball,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A layer of what stands for many packages: what decides it, and its entries."""

    recipe: Sequence[object]
    comment: str
    entries: Callable[[_Work], Iterable[Entry]]


def _shared(plan: ImagePlan) -> tuple[_Part, ...]:
    """Give the layers whose content belongs to no single package."""
    if not plan.npm:
        return ()
    files = [[file.name, file.version, file.filename, file.sha256, file.url] for file in plan.npm]
    index = _Part(
        recipe=["npm index", files],
        comment="npm's index",
        entries=lambda work: map(_in_home, context.npm_index(work.plan, work.store)),
    )
    return (index, *(part for project in plan.node for part in _node_parts(plan, project)))


def _node_parts(plan: ImagePlan, project: NodeProject) -> Iterator[_Part]:
    files = sorted(file.sha256 for file in plan.npm)
    count = parts(plan)
    for number in range(count):
        yield _Part(
            recipe=["node_modules", plan.base.digest, asdict(project), files, number, count],
            comment=f"node_modules of {posix(project)}, {number + 1} of {count}",
            entries=partial(_Work.part, project=project, number=number),
        )


def _in_home(entry: Entry) -> Entry:
    return replace(entry, path=f"{HOME.lstrip('/')}/{entry.path}")


def _content(work: _Work, entries: Iterable[Entry], claims: Sequence[Claims]) -> Content:
    check_together(claims, scripts=False)
    unique = {entry.path: entry for entry in entries}
    return Content(
        tar=work.tar(work.modules(unique.values())), facts={"claims": [claim.plain() for claim in claims]}
    )


def _contents(work: _Work, groups: Sequence[Group], layers: Sequence[Layer]) -> Contents:
    """Say what lies where: the base and the environment are the lowest layers, then come the groups."""
    base, venv, *packages = (layer.digest for layer in layers)
    return Contents(
        root=work.root,
        base=base,
        files={file.sha256: layer for files, layer in zip(groups, packages, strict=False) for file in files},
        seeds=dict.fromkeys(work.seeds, venv),
    )


def _made(found: tuple[Layer, Mapping[str, Any]]) -> Made:
    layer, facts = found
    return Made(layer=layer, claims=tuple(Claims.from_plain(plain) for plain in facts["claims"]))


def _seeded(filename: str, python: str, replaced: Collection[str]) -> bool:
    """Say whether `venv` of this Python installs the wheel, and nothing takes its place."""
    name = canonicalize_name(filename.partition("-")[0])
    usual = ("pip",) if int(python.partition(".")[2]) >= 12 else ("pip", "setuptools")
    return name in usual and name not in replaced


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
