"""An ImagePlan as a build context: the rendered Dockerfile, the files around it, and the wheels.

Everything below `templates/image/rootfs` lands in the image at the same path; a template that
renders to nothing leaves no file.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from imagegen.archive import Entry, write_folder
from imagegen.errors import BuildError, NotStockedError
from imagegen.layers import LAYOUT
from imagegen.npmcache import REGISTRY, index_entries, tarball_entry
from imagegen.plan import HOME, UID, WORKSPACE, ImagePlan
from mirror.snapshot import Stocked
from mirror.store import Store

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from jinja2 import Environment

_TEMPLATES = ("templates", "image")
_SUFFIX = ".j2"
_BAKED = ("offline.py", "prepare.py")
_PROGRAMS = ("rootfs/usr/local/bin/", f"rootfs{HOME}/bin/")
_STOCKED = "stocked.txt"
_MARK = b"# Rendered by imagegen."
NPM_CI = (
    f'cd "{WORKSPACE}/$1" && cp -r {HOME}/npm/cache /tmp/npm-cache && '
    "npm ci --cache /tmp/npm-cache --offline --ignore-scripts && rm -rf /tmp/npm-cache"
)
"""What makes node_modules in the folder $1 of the workspace; npm's cache stays as it is."""


def templates_digest() -> str:
    """Give the sha256 of all templates and programs that go into images, and of how layers are written."""
    sources = dict(_sources(resources.files(_TEMPLATES[0]) / _TEMPLATES[1]))
    sources |= {name: guest_program(name).decode() for name in _BAKED} | {"layout": str(LAYOUT)}
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def _sources(folder: Traversable, place: str = "") -> Iterator[tuple[str, str]]:
    """Give all templates by their paths."""
    for item in folder.iterdir():
        if item.is_dir():
            yield from _sources(item, f"{place}{item.name}/")
        else:
            yield f"{place}{item.name}", item.read_bytes().decode()


def guest_program(name: str) -> bytes:
    """Read a program that is to run in an image."""
    return (resources.files("imagegen.guest") / name).read_bytes()


def render(plan: ImagePlan) -> tuple[Entry, ...]:
    """Render all files of the context but the wheels."""
    environment = _environment()
    values = {"plan": plan, "home": HOME, "workspace": WORKSPACE, "uid": UID, "registry": REGISTRY,
              "npm_ci": NPM_CI}  # fmt: skip
    entries = [Entry(path=f"rootfs{HOME}/lib/{name}", content=guest_program(name)) for name in _BAKED]
    for name in environment.list_templates():
        text = environment.get_template(name).render(values)
        if text.strip():
            path = name.removesuffix(_SUFFIX)
            mode = 0o755 if path.startswith(_PROGRAMS) else 0o644
            entries.append(Entry(path=path, content=text.encode(), mode=mode))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def wheels(plan: ImagePlan, stored: Callable[[str], Path]) -> tuple[Entry, ...]:
    """Give the stocked files; `stored` says where one with a sha256 lies.

    Raises NotStockedError when one is gone.
    """
    return tuple(_wheels(plan, stored))


def npm_cache(plan: ImagePlan, store: Store) -> tuple[Entry, ...]:
    """Give npm's cache with the stocked tarballs. Raises NotStockedError when one is gone."""
    return tuple({entry.path: entry for entry in (*npm_index(plan, store), *_tarballs(plan, store))}.values())


def npm_index(plan: ImagePlan, store: Store) -> tuple[Entry, ...]:
    """Give all of npm's cache but the tarballs, and a list of them. Raises NotStockedError."""
    for artifact in plan.npm:
        check_held(artifact, store.path(artifact.sha256))
    lines = sorted({f"{artifact.name} {artifact.version}\n" for artifact in plan.npm})
    listing = [Entry(path=f"npm/{_STOCKED}", content="".join(lines).encode())] if lines else []
    return (*listing, *map(in_cache, index_entries(plan.npm, store)))


def npmrc(plan: ImagePlan) -> bytes:
    """Give npm's configuration in an image."""
    values = {"plan": plan, "home": HOME, "registry": REGISTRY}
    return _environment().get_template(f"rootfs{HOME}/npmrc{_SUFFIX}").render(values).encode()


def node_files(plan: ImagePlan) -> tuple[Entry, ...]:
    """Give what npm reads of the projects whose node_modules the image has."""
    files = {path: text for project in plan.node for path, text in project.files.items()}
    return tuple(Entry(path=f"node/{path}", content=text.encode()) for path, text in files.items())


def in_cache(entry: Entry) -> Entry:
    """Move an entry of npm's cache to where images have it, below HOME."""
    return replace(entry, path=f"npm/cache/{entry.path}")


def _tarballs(plan: ImagePlan, store: Store) -> Iterator[Entry]:
    return (in_cache(tarball_entry(store.path(file.sha256))) for file in plan.npm)


def write_context(entries: tuple[Entry, ...], folder: Path) -> None:
    """Write a context as a folder, in the place of an earlier one only. Raises BuildError."""
    if folder.exists() and not _is_ours(folder):
        raise BuildError(
            "the folder is not empty and holds no rendered context",
            where=str(folder),
            hint="name a new folder after -o",
        )
    folder = folder.resolve()  # of `.` and of links, too, the whole folder is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        fresh = Path(name, "fresh")
        fresh.mkdir()
        fresh.chmod(0o755)
        write_folder(entries, fresh)
        if folder.exists():
            folder.rename(Path(name, "earlier"))
        fresh.rename(folder)


def _is_ours(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    dockerfile = folder / "Dockerfile"
    return not any(folder.iterdir()) or (dockerfile.is_file() and dockerfile.read_bytes().startswith(_MARK))


def _wheels(plan: ImagePlan, stored: Callable[[str], Path]) -> Iterator[Entry]:
    for artifact in plan.stock:
        path = stored(artifact.sha256)
        check_held(artifact, path)
        yield Entry(path=f"wheels/{artifact.filename}", content=path)


def check_held(artifact: Stocked, path: Path) -> None:
    """See that a stocked file lies there. Raises NotStockedError where it does not, or not whole."""
    if not path.is_file() or path.stat().st_size != artifact.size:
        raise NotStockedError(
            "the mirror's store does not hold this file, or not whole",
            where=artifact.filename,
            hint="run `mirror refresh`",
        )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # of what stands, nothing is rendered

    environment = Environment(
        loader=PackageLoader(*_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - these are configuration files, not HTML; values are checked by spec
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quoted"] = _quoted
    return environment


def _quoted(text: str) -> str:
    """Quote a value for ENV and LABEL of a Dockerfile."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
