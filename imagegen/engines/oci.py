"""The direct engine: an image's layers straight from the mirror's wheels, without a daemon or root."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen.archive import plainly
from imagegen.bytecode import BasePython, Compiler, HostPython
from imagegen.claims import Claims, check_together
from imagegen.compression import Compression
from imagegen.contents import Contents
from imagegen.engines.material import Part, Work, group_content, held, shared_parts, venv_content
from imagegen.engines.root import BaseRoot
from imagegen.environment import settings_entries
from imagegen.errors import UnsupportedError
from imagegen.layerplan import FIXED, Group, group
from imagegen.layers import Content, Layer, Layers
from imagegen.live import Progress
from imagegen.nodemodules import NodeModules, posix
from imagegen.nodeproject import tell_of_scripts
from imagegen.oci import KEPT, Image, ImageLayout, make_image
from imagegen.plan import HOME, ImagePlan
from imagegen.referrers import Referrer
from imagegen.rootfs import RootFs
from imagegen.sdists import BuiltWheel, SdistBuilder, is_sdist
from imagegen.wheels import Venv
from lockfiles.target import Target
from mirror.store import Store, disk_errors

if TYPE_CHECKING:
    from imagegen.baseimages import BaseImage

_CHUNK = 1 << 20

Attest = Callable[[Image, Contents], Iterable[Referrer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer and what the wheels in it claim."""

    layer: Layer
    claims: tuple[Claims, ...]


class DirectEngine:
    """Assembles images in the folder of a mirror, from what its store holds.

    `stood` is called with each layer of a build as soon as that stands, by several threads.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        compression: Compression = Compression.GZIP,
        stood: Callable[[Layer], object] = lambda layer: None,
    ) -> None:
        self._root = root
        self._store = store
        self._stood = stood
        self._layers = Layers(root, compression)
        self.layout = ImageLayout(root / "oci")

    def build(
        self,
        plan: ImagePlan,
        target: Target,
        tarball: Path,
        root: RootFs,
        progress: Progress,
        evidence: Callable[[], Attest],
        image: BaseImage | None = None,
    ) -> Image:
        """Make the image of a plan on the base in `tarball`, and add it to the mirror's layout.

        `evidence` is called while layers are made; what it gives makes the evidence that is added with the
        image. Where the base is an `image`, its layers are the lowest, as they are.
        Raises WheelError, CollisionError, LayerBudgetError, UnsupportedError and NotStockedError.
        """
        check_supported(plan, target)
        venv = Venv(root=f"{HOME}/venv", python=target.minor)
        shared = shared_parts(plan)
        more = len(image.layers) - 1 if image else 0
        groups = group((*plan.present, *plan.npm), plan.layers, plan.name, FIXED + len(shared) + more)
        programs = BaseRoot(tarball, plan.base.digest, self._root / "roots", progress)
        compiler = _compiler(plan, target, root, programs)
        with self._alone(), NodeModules(plan, self._store, programs, self._root / "node", progress) as node:
            work = Work(
                plan=plan,
                target=target,
                venv=venv,
                root=root,
                store=self._store,
                compiler=compiler,
                node=node,
                built=self._built(plan, root, programs, progress),
            )
            progress.step(f"assembling {plan.reference} from {plan.base.name}")
            tell_of_scripts(plan, progress)
            with _threads() as pool:
                # What takes longest first, so that no core waits for it at the end. What is not compiled here
                # is done while Python, a process of its own, compiles.
                ready = pool.submit(compiler.prepare) if compiler else None
                base = pool.submit(self._base, plan, tarball, image)
                venv_layer = pool.submit(self._venv, work)
                made = {files: pool.submit(self._group, work, files) for files in self._by_work(work, groups)}
                settings_layer, attest = pool.submit(self._settings, work), pool.submit(evidence)
                if ready:
                    ready.result()
                packages = [venv_layer.result(), *(made[files].result() for files in groups)]
                check_together(claim for one in packages for claim in one.claims)
                upper = [one.layer for one in packages] + [self._part(work, part) for part in shared]
                lowest = base.result()
                layers = [*lowest, *upper, settings_layer.result()]
            settings = image.settings if image else {}
            whole = make_image(plan, layers, target.oci_platform.partition("/")[2], settings)
            # What the base lists is true of the last of its layers.
            contents = _contents(work, groups, layers[len(lowest) - 1 :])
            self.layout.add(whole, [plan.reference], attest.result()(whole, contents))
            self.layout.prune(KEPT)
            self._layers.forget_lost()
        return whole

    def attach(self, referrers: Iterable[Referrer]) -> None:
        """Add artifacts about images that stand."""
        with self._alone():
            self.layout.attach(referrers)

    def _built(
        self, plan: ImagePlan, root: RootFs, programs: BaseRoot, progress: Progress
    ) -> dict[str, BuiltWheel]:
        """Give the wheels of the plan's sdists by the sha256 of these."""
        python = f"{root.prefix}/bin/python{root.minor}"
        stored = partial(held, self._store)
        builder = SdistBuilder(programs, python, stored, self._root / "built", progress)
        builder.forget_lost(self._store.holds)
        return {file.sha256: builder.wheel(file, plan) for file in plan.install if is_sdist(file)}

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
            from imagegen.baseimages import link_layers

            with disk_errors(self._layers.blobs):
                link_layers(image, self._layers.blobs)
            for layer in image.layers:
                self._stood(layer)
            return image.layers
        recipe = ["base", plan.base.digest]
        # It is made once, and everybody who has an image of this mirror has pulled it.
        content = Content(tar=_chunks(tarball), facts={}, dense=True)
        return (self._layer(recipe, plan.base.name, lambda: content)[0],)

    def _layer(
        self, recipe: object, comment: str, make: Callable[[], Content]
    ) -> tuple[Layer, Mapping[str, Any]]:
        layer, facts = self._layers.get(recipe, comment, make)
        self._stood(layer)
        return layer, facts

    def _venv(self, work: Work) -> Made:
        seeds = work.seeds
        recipe = ["venv, with its claims", work.plan.base.digest, work.python, seeds]
        return _made(self._layer(recipe, "the empty environment", lambda: venv_content(work, seeds)))

    def _by_work(self, work: Work, groups: Iterable[Group]) -> list[Group]:
        """Sort groups by how much there is to do for them."""
        return sorted(
            groups,
            key=lambda files: (self._layers.knows(_recipe(work, files)), -sum(file.size for file in files)),
        )

    def _group(self, work: Work, files: Group) -> Made:
        comment = ", ".join(f"{file.name} {file.version}" for file in files)
        return _made(self._layer(_recipe(work, files), comment, lambda: group_content(work, files)))

    def _part(self, work: Work, part: Part) -> Layer:
        def content() -> Content:
            return Content(tar=work.tar(part.entries(work)), facts={})

        return self._layer([work.plan.user, *part.recipe], part.comment, content)[0]

    def _settings(self, work: Work) -> Layer:
        entries = work.modules(list(settings_entries(work.plan, work.root, work.venv.python)))
        stream = b"".join(plainly(work.tar(entries)))
        recipe = ["settings", hashlib.sha256(stream).hexdigest()]
        return self._layer(recipe, "settings", lambda: Content(tar=[stream], facts={}))[0]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Give a thread for each processor; where one fails, what waits is given up."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _recipe(work: Work, files: Group) -> list[object]:
    return ["wheels", work.python, [work.recipe(file) for file in files]]


def _compiler(plan: ImagePlan, target: Target, root: RootFs, programs: BaseRoot) -> Compiler | None:
    """Choose what compiles: the base's Python, or one of this host where that cannot run here."""
    if not plan.compile:
        return None
    own = target.arch == platform.machine()
    return Compiler(BasePython(programs, root) if own else foreign_python(plan, target), target.minor)


def foreign_python(plan: ImagePlan, target: Target) -> HostPython:
    """Give what compiles for another machine. Raises UnsupportedError where this host has no such Python.

    Going on without would give one plan two contents.
    """
    python = HostPython.find(target.minor)
    if python is None:
        raise UnsupportedError(
            f"modules for {target.oci_platform} cannot be compiled: this host has no Python {target.minor}",
            where=plan.name,
            hint=f"install python{target.minor}, set `compile = false` for the image, or build on such a "
            "machine",
        )
    return python


def check_supported(plan: ImagePlan, target: Target) -> None:
    """Raise UnsupportedError where programs of a base would have to run that this machine cannot run."""
    if target.arch == platform.machine():
        return
    wanted = [f"{file.filename} has to be built from source" for file in plan.install if is_sdist(file)]
    wanted += [f"node_modules of {posix(project)} is to be installed" for project in plan.node]
    if wanted:
        raise UnsupportedError(
            f"{wanted[0]}, which takes a machine that is {target.oci_platform}",
            where=plan.name,
            hint="build on such a machine, lock a version that has a wheel, or leave `install` out",
        )


def _contents(work: Work, groups: Sequence[Group], layers: Sequence[Layer]) -> Contents:
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


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
