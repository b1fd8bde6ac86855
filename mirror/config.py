"""lockstock.toml as frozen data: what to stock, for which targets, and where."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lockfiles.document import Table, parse_toml
from lockfiles.errors import ConfigError
from lockfiles.select import Sdists, SdistUse
from lockfiles.target import RELEASES, Target
from mirror.destinations import ObjectStoreSpec, RemoteDevpiSpec, read_object_store, read_remote_devpi
from mirror.patterns import is_pattern
from mirror.urls import index_url, open_url

DEFAULT_FILE = Path("lockstock.toml")
DEFAULT_PORT = 3141
BUILD_SUFFIX = ":build"
TOOLS = ":tools"
# Those of this user are the snapshots'.
_INDEX = re.compile(r"(?!lockstock/)[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitOrigin:
    """A repository to read locks from, at a branch, tag or commit. The URL may hold credentials."""

    url: str
    ref: str = "HEAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSpec:
    """A lock to stock, or with a pattern in `path` any number of them.

    `path` and `project` are below `git`'s top folder, or else absolute or relative to the current
    one. `project` is the folder of the user's own code that is built from source in the sandbox,
    so that its build requirements are stocked too. `groups` None are those of the lock's own tool.
    `allow_sha1` names npm packages that are accepted by a sha1 alone.
    """

    name: str
    path: Path
    project: Path | None = None
    git: GitOrigin | None = None
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    sdists: Sdists = field(default_factory=Sdists)
    allow_sha1: tuple[str, ...] = ()

    @property
    def is_pattern(self) -> bool:
        """Whether `path` stands for any number of locks."""
        return is_pattern(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """An index to use. With `packages`, patterns of names, it alone is asked for these.

    One without takes the place of the indexes that the user's own pip is set to.
    """

    index: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSpec:
    """Shell commands to run when a refresh failed, and when it changed what is served."""

    on_failure: str | None = None
    on_change: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration but for `[images]`, which imagegen reads. Sizes are in bytes.

    `url` is where clients find what is served, and `private` whether these need an account to read.
    `in_house` are devpi indexes of people, as USER/INDEX, that are shown behind the stock.
    """

    file: Path
    root: Path
    keep: int
    port: int
    url: str
    concurrency: int
    per_host: int
    max_file_size: int
    tools: tuple[str, ...]
    targets: tuple[Target, ...]
    locks: tuple[LockSpec, ...]
    upstreams: tuple[UpstreamSpec, ...]
    hooks: HookSpec = field(default_factory=HookSpec)
    object_store: ObjectStoreSpec | None = None
    remote_devpi: RemoteDevpiSpec | None = None
    private: bool = False
    in_house: tuple[str, ...] = ()


def load(file: Path) -> Config:
    """Read lockstock.toml. Raises ConfigError naming file, line and key."""
    config = load_mirror(file)
    if not config.locks:
        raise ConfigError(
            "no lock-file is named", where=str(file), hint='add [locks.NAME] with path = "requirements.txt"'
        )
    return config


def load_mirror(file: Path) -> Config:
    """Read lockstock.toml, which may name no lock: bundles fill a mirror, too. Raises ConfigError."""
    return _config(file, load_document(file))


def load_or_default(file: Path) -> Config:
    """Read lockstock.toml, or give the defaults where there is none. Raises ConfigError."""
    return _config(file, load_document(file) if file.exists() else parse_toml(str(file), "", ConfigError))


def _config(file: Path, document: Table) -> Config:
    document.table("images")  # imagegen.spec reads it
    mirror = document.table("mirror")
    config = Config(
        file=file,
        root=file.parent / mirror.string("path", ".lockstock"),
        keep=mirror.integer("keep", 5, minimum=1),
        port=_port(mirror),
        url=_url(mirror),
        private=mirror.boolean("private", False),
        in_house=_in_house(mirror),
        concurrency=mirror.integer("concurrency", 32, minimum=1),
        per_host=mirror.integer("per_host", 16, minimum=1),
        max_file_size=mirror.integer("max_file_size", 4 << 30, minimum=1),
        tools=_tools(mirror),
        targets=_targets(document.table("targets"), _bases(document)),
        locks=tuple(
            _lock(name, table, file.parent) for name, table in document.table("locks").named_tables()
        ),
        upstreams=tuple(map(_upstream, document.tables("upstream"))),
        hooks=_hooks(document.table("hooks")),
        object_store=read_object_store(document.table("object_store"))
        if "object_store" in document.value
        else None,
        remote_devpi=read_remote_devpi(document.table("remote_devpi"))
        if "remote_devpi" in document.value
        else None,
    )
    mirror.finish()
    document.finish()
    return config


def _tools(mirror: Table) -> tuple[str, ...]:
    """Read the requirements of tools: names with versions, and neither options nor URLs."""
    tools = mirror.strings("tools", ("uv",))
    for tool in tools:
        try:
            named = Requirement(tool).url is None
        except InvalidRequirement:
            named = False
        if not named:
            raise mirror.fault("tools", f"{tool!r} is not a requirement by name, such as 'uv>=0.9'")
    return tools


def _in_house(mirror: Table) -> tuple[str, ...]:
    indexes = mirror.strings("in_house", ())
    for index in indexes:
        if not _INDEX.fullmatch(index):
            raise mirror.fault("in_house", f"{index!r} is not USER/INDEX, the name of one of devpi's indexes")
    return tuple(dict.fromkeys(indexes))


def _url(mirror: Table) -> str:
    """Read where clients find what is served; this machine's own port where nothing is said."""
    return mirror.parsed("url", open_url) or f"http://127.0.0.1:{_port(mirror)}"


def _port(mirror: Table) -> int:
    return mirror.integer("port", DEFAULT_PORT, minimum=1, maximum=65_535)


def load_document(file: Path) -> Table:
    """Read lockstock.toml as checked tables. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file",
            where=str(file),
            hint="run in the project's folder, or give --config FILE",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(file)) from error
    return parse_toml(str(file), text, ConfigError)


def check_name(table: Table, name: str) -> str:
    """Give `name` back if it may name a lock or an image. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise table.fault("", f"{name!r} is not a name: small letters, digits, and .-_ between them")
    return name


def existing_folder(table: Table, key: str, folder: Path, relative: str) -> Path:
    """Give the folder a key names, which must be there. Raises ConfigError."""
    path = folder / relative
    if not path.is_dir():
        raise table.fault(key, f"there is no folder {path}", "paths are relative to lockstock.toml")
    return path


def _lock(name: str, table: Table, folder: Path) -> LockSpec:
    check_name(table, name)
    git = _git(table)
    path, project = table.string("path"), table.string("project", None)
    groups = table.strings("groups", ()) if "groups" in table.value else None
    top = Path() if git else folder
    spec = LockSpec(
        name=name,
        path=top / path,
        project=top / project if project else None,
        git=git,
        extras=table.strings("extras", ()),
        groups=groups,
        sdists=_sdists(table),
        allow_sha1=tuple(sorted(table.strings("allow_sha1", ()))),
    )
    table.finish()
    return spec


def _git(table: Table) -> GitOrigin | None:
    url, ref = table.string("git", None), table.string("ref", None)
    if url is None and ref is not None:
        raise table.fault("ref", "has a meaning only together with `git`")
    if (url or "").startswith("-") or (ref or "").startswith("-"):
        raise table.fault("git", "may not begin with a dash")
    return GitOrigin(url=url, ref=ref or "HEAD") if url else None


def _sdists(table: Table) -> Sdists:
    """Read `sdists` and `sdists_of`: when sdists are taken, in general and for single packages."""
    uses = get_args(SdistUse)
    overrides = table.string_map("sdists_of")
    default = table.string("sdists", "fallback")
    for key, use in (("sdists", default), *(("sdists_of", use) for use in overrides.values())):
        if use not in uses:
            raise table.fault(key, f"must be one of {', '.join(uses)}")
    packages = {str(canonicalize_name(name)): cast("SdistUse", use) for name, use in overrides.items()}
    return Sdists(default=cast("SdistUse", default), packages=packages)


def _bases(document: Table) -> set[tuple[str, str]]:
    """Give Python and glibc of the Debian releases that images are based on, as far as they are known."""
    images = document.value.get("images")
    tables = images.values() if isinstance(images, dict) else ()
    bases = (table.get("base") for table in tables if isinstance(table, dict))
    suites = (base.removeprefix("debian:") for base in bases if isinstance(base, str))
    return {RELEASES[suite] for suite in suites if suite in RELEASES}


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _targets(table: Table, bases: Collection[tuple[str, str]]) -> tuple[Target, ...]:
    """Read `[targets]`: every Python for every platform. What it leaves out the images' bases tell.

    `bases` are their Pythons and C libraries; the oldest C library has to work.
    """
    own = platform.python_version().rpartition(".")[0]
    pythons = table.strings("python", sorted({python for python, _ in bases}) or (own,))
    platforms = table.strings("platforms", (f"linux/{platform.machine()}",))
    glibc = table.string("glibc", min((glibc for _, glibc in bases), key=_version, default=None))
    table.finish()
    try:
        targets = {Target.of(python, place, glibc) for python in pythons for place in platforms}
    except ValueError as error:
        raise table.fault("", str(error)) from error
    if not targets:
        raise table.fault("", "there must be at least one Python and one platform")
    return tuple(sorted(targets))


def _hooks(table: Table) -> HookSpec:
    hooks = HookSpec(on_failure=table.string("on_failure", None), on_change=table.string("on_change", None))
    table.finish()
    return hooks


def _upstream(table: Table) -> UpstreamSpec:
    spec = UpstreamSpec(index=table.required("index", index_url), packages=table.strings("packages", ()))
    table.finish()
    return spec
