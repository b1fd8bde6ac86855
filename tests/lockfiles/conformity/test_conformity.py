"""What is selected is what each tool's own installer takes: names, versions and files.

The tools write the locks while the test runs. They also say, through their exports, what a choice of
extras and groups means; uv says which of the exported markers hold on a target, and pip which file it
would take there. docs/lock-formats.md explains what they cannot say.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lockfiles.closure import required
from lockfiles.filenames import is_sdist
from lockfiles.formats import parse
from lockfiles.model import GitSource, IndexSource, Lock, Package
from lockfiles.select import Selection, select
from lockfiles.target import Target
from mirror.upstream.answers import LocatedFiles
from mirror.upstream.bounds import Bounds
from mirror.upstream.http import http_client
from mirror.upstream.locate import files_of, locate
from mirror.upstream.session import Upstream
from mirror.upstream.settings import UpstreamSettings, pip_settings
from tests.lockfiles.conformity import projects
from tests.lockfiles.conformity.git_server import GitServer
from tests.lockfiles.conformity.tools import Pin, Pins, Tools, pins, reported

pytestmark = pytest.mark.network

HOST = Target(platform.python_version(), platform.machine(), "glibc", platform.libc_ver()[1])
TARGETS = (
    Target("3.11.2", "x86_64", "glibc", "2.28"),
    Target("3.12.4", "aarch64", "glibc", "2.36"),
    Target("3.13.1", "x86_64", "musl", "1.2"),
    Target("3.14.0", "aarch64", "musl", "1.2"),
    HOST,
)
Chosen = tuple[tuple[str, ...], tuple[str, ...]]
MAIN: Chosen = ((), ())


@dataclass(frozen=True, kw_only=True)
class World:
    """What all the locks of one run share."""

    tools: Tools
    settings: UpstreamSettings
    git: GitServer
    folder: Path

    @property
    def index(self) -> str:
        return self.settings.indexes[0]

    def project(self, name: str, kind: str) -> Path:
        folder = self.folder / f"{name}-{kind}"
        folder.mkdir()
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("conformity")
    with pytest.MonkeyPatch.context() as patch, GitServer(folder) as git:
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.delenv("PIP_FIND_LINKS", raising=False)
        yield World(tools=Tools(folder), settings=pip_settings(()), git=git, folder=folder)


def dependencies(world: World, kind: str) -> list[str]:
    other = projects.sources(world.git.url, world.git.commit)
    return {"plain": projects.PLAIN, "forks": projects.FORKS, "sources": other}[kind]


# What each tool does with a folder: it writes its lock there and gives its name.


def lock_with_uv(world: World, folder: Path, kind: str) -> str:
    if kind == "forks":
        extras = projects.EXTRAS | projects.CONFLICTING_EXTRAS
        groups = projects.GROUPS | projects.CONFLICTING_GROUPS
        projects.write_pyproject(folder, projects.FORKS, extras, groups, projects.UV_CONFLICTS)
    else:
        projects.write_pyproject(folder, dependencies(world, kind))
    world.tools.run("uv", "lock", "-q", cwd=folder)
    return "uv.lock"


def lock_with_poetry(world: World, folder: Path, kind: str) -> str:
    forks = kind == "forks"
    projects.write_pyproject(
        folder,
        dependencies(world, kind),
        projects.PLAIN_EXTRAS if forks else None,
        projects.GROUPS if forks else None,
        projects.poetry_source(world.index)
        if forks
        else projects.poetry_source(world.index).replace(_OPTIONAL, ""),
    )
    world.tools.run("poetry", "lock", "-q", cwd=folder)
    return "poetry.lock"


_OPTIONAL = "[tool.poetry.group.docs]\noptional = true\n"


def lock_with_old_poetry(world: World, folder: Path, kind: str) -> str:
    (folder / "pyproject.toml").write_text(
        projects.OLD_POETRY.replace("INDEX", world.index.rstrip("/") + "/")
    )
    world.tools.run("poetry-1.8", "lock", "-q", cwd=folder)
    return "poetry.lock"


def lock_with_pdm(world: World, folder: Path, kind: str) -> str:
    return _lock_with_pdm(world, folder, kind, "pdm.lock")


def lock_with_pdm_edges(world: World, folder: Path, kind: str) -> str:
    return _lock_with_pdm(world, folder, kind, "pdm.edges.lock", "-S", "no_inherit_metadata,static_urls")


def _lock_with_pdm(world: World, folder: Path, kind: str, lock: str, *options: str) -> str:
    """A lock with several targets where one cannot do: pdm does not fork by itself."""
    forks = kind == "forks"
    projects.write_pyproject(
        folder,
        dependencies(world, kind),
        projects.EXTRAS if forks else None,
        projects.GROUPS if forks else None,
    )
    command = ["pdm", "lock", "-L", lock, *(["-G:all"] if forks else [])]
    python = ["--python", ">=3.11,<3.13"] if forks else []
    world.tools.run(*command, *options, *python, cwd=folder)
    if forks:
        world.tools.run(*command, "--python", ">=3.13", "--append", cwd=folder)
    return lock


def lock_with_pipenv(world: World, folder: Path, kind: str) -> str:
    categories = {"packages": dependencies(world, kind), "dev-packages": ["pytest"], "docs": ["mistune"]}
    if kind == "forks":
        categories["packages"] = [*projects.FORKS[:1], "numpy", "colorama; sys_platform == 'linux'"]
    projects.write_pipfile(folder, world.index, categories)
    world.tools.run("pipenv", "lock", cwd=folder)
    return "Pipfile.lock"


def lock_with_uv_pip(world: World, folder: Path, kind: str) -> str:
    _write_in(folder, dependencies(world, kind))
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "-q", "-o", "requirements.txt"]
    world.tools.run("uv", "pip", "compile", *options, "requirements.in", cwd=folder)
    return "requirements.txt"


def lock_with_pip_tools(world: World, folder: Path, kind: str) -> str:
    _write_in(folder, dependencies(world, kind))
    options = ["--generate-hashes", "--quiet", "--strip-extras", "--allow-unsafe", "-o", "requirements.txt"]
    world.tools.run("pip-tools", *options, "requirements.in", cwd=folder)
    return "requirements.txt"


def lock_with_pip(world: World, folder: Path, kind: str) -> str:
    _write_in(folder, dependencies(world, kind))
    world.tools.run("pip", "lock", "-q", "-r", "requirements.in", "-o", "pylock.toml", cwd=folder)
    return "pylock.toml"


def lock_with_uv_export(world: World, folder: Path, kind: str) -> str:
    lock_with_uv(world, folder, kind)
    options = ["-q", "--frozen", "--no-default-groups", "--no-emit-project", "-o", "pylock.toml"]
    world.tools.run("uv", "export", *options, cwd=folder)
    return "pylock.toml"


def _write_in(folder: Path, lines: list[str]) -> None:
    (folder / "requirements.in").write_text("".join(f"{line}\n" for line in lines))


# What each tool says is installed for chosen extras and groups: requirements with markers.


def export_with_uv(world: World, folder: Path, chosen: Chosen) -> str:
    extras, groups = chosen
    options = [*(f"--extra={extra}" for extra in extras), *(f"--group={group}" for group in groups)]
    quiet = ["-q", "--frozen", "--no-hashes", "--no-header", "--no-annotate", "--no-emit-project"]
    return world.tools.run("uv", "export", *quiet, "--no-default-groups", *options, cwd=folder)


def export_with_poetry(world: World, folder: Path, chosen: Chosen) -> str:
    extras, groups = chosen
    options = [*(f"--extras={extra}" for extra in extras), *(f"--with={group}" for group in groups)]
    return world.tools.run("poetry", "export", "--without-hashes", *options, cwd=folder)


def export_with_old_poetry(world: World, folder: Path, chosen: Chosen) -> str:
    extras, groups = chosen
    options = [*(f"--extras={extra}" for extra in extras), *(f"--with={group}" for group in groups)]
    return world.tools.run("poetry-1.8", "export", "--without-hashes", *options, cwd=folder)


def export_with_pdm(world: World, folder: Path, chosen: Chosen) -> str:
    extras, groups = chosen
    extra = [option for name in extras for option in ("-G", name)]
    group = [option for name in groups for option in ("-dG", name)] or ["--prod"]
    return world.tools.run("pdm", "export", "--no-hashes", *extra, *group, cwd=folder)


def plan_with_pdm(world: World, folder: Path, chosen: Chosen) -> str:
    """pdm cannot export a lock without metadata, but says what it would install here."""
    extras, groups = chosen
    extra = [option for name in extras for option in ("-G", name)]
    group = [option for name in groups for option in ("-dG", name)] or ["--prod"]
    options = ["--dry-run", "--no-self", "-L", "pdm.edges.lock", *extra, *group]
    said = world.tools.run("pdm", "sync", *options, cwd=folder)
    return re.sub(r"(?m)^ +- (\S+) (\S+)$", r"\1==\2", said)


def export_with_pipenv(world: World, folder: Path, chosen: Chosen) -> str:
    categories = " ".join(["packages", *("dev-packages" if g == "develop" else g for g in chosen[1])])
    return world.tools.run("pipenv", "requirements", f"--categories={categories}", cwd=folder)


def as_it_is(world: World, folder: Path, chosen: Chosen) -> str:
    """A requirements file says itself what is installed; its hashes are no business of markers."""
    text = (folder / "requirements.txt").read_text()
    return "\n".join(line.split(" \\")[0] for line in text.splitlines() if not line.startswith(" "))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tool, its kinds of project, and the choices of extras and groups that are compared."""

    lock: Callable[[World, Path, str], str]
    export: Callable[[World, Path, Chosen], str]
    chosen: tuple[Chosen, ...] = (MAIN,)
    targets: tuple[Target, ...] = TARGETS
    kinds: tuple[str, ...] = ("plain", "forks", "sources")


FORK_CHOICES: tuple[Chosen, ...] = (MAIN, (("cli",), ("dev",)), (("all",), ("lint", "docs")))
UV_CHOICES: tuple[Chosen, ...] = (
    *FORK_CHOICES,
    (("cli", "old"), ("docs-old",)),
    (("new", "all"), ("dev", "docs")),
)
CASES = {
    "uv": Case(lock=lock_with_uv, export=export_with_uv, chosen=UV_CHOICES),
    "uv-export": Case(lock=lock_with_uv_export, export=export_with_uv),
    "uv-pip": Case(lock=lock_with_uv_pip, export=as_it_is),
    "poetry": Case(lock=lock_with_poetry, export=export_with_poetry, chosen=FORK_CHOICES),
    "poetry-1.8": Case(
        lock=lock_with_old_poetry, export=export_with_old_poetry, chosen=FORK_CHOICES, kinds=("forks",)
    ),
    "pdm": Case(lock=lock_with_pdm, export=export_with_pdm, chosen=FORK_CHOICES),
    "pdm-edges": Case(
        lock=lock_with_pdm_edges,
        export=plan_with_pdm,
        chosen=FORK_CHOICES,
        targets=(HOST,),
        kinds=("plain", "forks"),
    ),
    "pipenv": Case(
        lock=lock_with_pipenv,
        export=export_with_pipenv,
        chosen=(MAIN, ((), ("develop",)), ((), ("develop", "docs"))),
        targets=TARGETS[1:],  # it pins only what the machine needs that makes the lock
    ),
    "pip-tools": Case(lock=lock_with_pip_tools, export=as_it_is, targets=(HOST,)),
}


@dataclass(frozen=True, kw_only=True)
class Said:
    """A lock, and what its tool said that a target installs for a choice of extras and groups."""

    folder: Path
    lock: Lock
    pins: dict[tuple[Chosen, Target], Pins]


@pytest.fixture(scope="module")
def answers(world: World) -> Iterator[dict[tuple[str, str], Future[Said]]]:
    """Let the tools work side by side, each in a folder of its own."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        yield {(name, kind): pool.submit(ask_tool, world, name, kind) for name, kind in EVERY}


def ask_tool(world: World, name: str, kind: str) -> Said:
    case, folder = CASES[name], world.project(name, kind)
    lock = read(folder, case.lock(world, folder, kind))
    said: dict[tuple[Chosen, Target], Pins] = {}
    for place, chosen in enumerate(case.chosen if kind == "forks" or name == "pipenv" else (MAIN,)):
        exported = case.export(world, folder, chosen)
        for target in case.targets if place == 0 else case.targets[place % 2 :: 2]:
            said[chosen, target] = plain(world.tools.applied(exported, target, folder))
    return Said(folder=folder, lock=lock, pins=said)


EVERY = [(name, kind) for name, case in CASES.items() for kind in case.kinds]


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_selection_is_what_the_tool_installs(
    world: World, answers: dict[tuple[str, str], Future[Said]], name: str, kind: str
) -> None:
    said = answers[name, kind].result()
    assert said.pins
    for ((extras, groups), target), expected in said.pins.items():
        located = locate_all(world, said.lock, target, extras, groups)
        selection = select(located, target, extras, groups)
        assert versions(selection) == expected, f"{name} {kind} {extras} {groups} {target}"
        check_files(world, selection, said.folder)


@pytest.mark.parametrize("kind", ["plain", "forks", "sources"])
def test_pip_lock_is_what_pip_installs_here(world: World, kind: str) -> None:
    folder = world.project("pip", kind)
    lock = read(folder, lock_with_pip(world, folder, kind))
    selection = select(lock, HOST)
    # pip does not install from git by a lock, since it asks for a hash.
    source = "requirements.in" if kind == "sources" else "pylock.toml"
    options = ["--dry-run", "--quiet", "--report", "-", "--ignore-installed", "-r", source]
    report = world.tools.run("pip", "install", *options, cwd=folder)
    git = {p.name for p in selection.sources}
    expected = {pin: file for pin, file in reported(report).items() if pin[0] not in git}
    assert files(selection) == expected
    assert git == ({"demo-git"} if kind == "sources" else set())


def read(folder: Path, filename: str) -> Lock:
    return parse(filename, (folder / filename).read_text(), lambda path: (folder / path).read_text())


def locate_all(
    world: World, lock: Lock, target: Target, extras: tuple[str, ...], groups: tuple[str, ...]
) -> Lock:
    """Ask the index for what the lock leaves out: the files behind its digests."""
    needed = [p for p in required(lock, target, extras, groups) if isinstance(p.source, IndexSource)]
    missing = [package for package in needed if not package.artifacts]
    if not missing:
        return lock
    found = dict(zip(missing, asyncio.run(ask(world, missing)), strict=True))
    return replace(lock, packages=tuple(found.get(package, package) for package in lock.packages))


async def ask(world: World, packages: list[Package]) -> tuple[Package, ...]:
    known = LocatedFiles(world.folder / "located")
    files = {package: known.get(package) for package in packages}
    missing = [package for package, held in files.items() if held is None]
    async with http_client(world.settings, 8) as client:
        upstream = Upstream(
            client=client, settings=world.settings, bounds=Bounds(8, 8), max_file_size=1 << 30
        )
        answers = dict(zip(missing, await locate(missing, upstream, known, files_of), strict=True))
    return tuple(answers.get(p) or replace(p, artifacts=files[p] or ()) for p in packages)


def versions(selection: Selection) -> Pins:
    """Give names and versions, a commit where the package is from git."""
    pinned = {c.package.name: c.package.version or "" for c in selection.choices}
    return pinned | {p.name: p.source.commit for p in selection.sources if isinstance(p.source, GitSource)}


def plain(expected: Pins) -> Pins:
    """Turn `git+URL@COMMIT` into the commit."""
    return {name: text.rpartition("@")[2].partition("#")[0] for name, text in expected.items()}


def files(selection: Selection) -> dict[Pin, str]:
    return {(c.package.name, c.package.version or ""): c.artifact.filename for c in selection.choices}


def check_files(world: World, selection: Selection, folder: Path) -> None:
    """pip takes the same wheels; it has none for what is selected as an sdist."""
    chosen = files(selection)
    wheels = {pin: file for pin, file in chosen.items() if not is_sdist(file)}
    taken = world.tools.files(wheels, selection.target, folder)
    assert wheels == {pin: taken[pin] for pin in wheels}, str(selection.target)
    assert {pin[0] for pin in chosen.keys() - wheels.keys()} <= {"docopt"}


def test_exports_are_read_in_full() -> None:
    assert pins("httpx[http2]==1.0 ; x\n# no\nidna==2 \\\n    --hash=x\na @ git+http://h/x@c") == {
        "httpx": "1.0", "idna": "2", "a": "git+http://h/x@c",
    }  # fmt: skip
