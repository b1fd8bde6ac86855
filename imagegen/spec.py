"""`[images.NAME]` of lockstock.toml as frozen data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from imagegen.compression import Compression
from imagegen.errors import BadReferenceError
from imagegen.layerplan import DEFAULT_BUDGET, MOST_LAYERS
from imagegen.reference import Reference
from lockfiles.document import Table
from lockfiles.errors import ConfigError
from lockfiles.formats import ecosystem_of
from lockfiles.model import Ecosystem
from lockfiles.target import Target
from mirror.config import Config, check_name, existing_folder, load_document

DEFAULT_USER = "sandbox"
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_REFERENCE = re.compile(r"[a-z0-9](?:[\w.:/-]*\w)?(?:@sha256:[0-9a-f]{64})?", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
# A component of a repository's name, by the OCI distribution specification.
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ECOSYSTEM_PACKAGES: Mapping[Ecosystem, tuple[str, ...]] = {
    Ecosystem.PYPI: (),  # every base has Python
    Ecosystem.NPM: ("nodejs", "npm"),
}
_RESERVED = ("PATH", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianBase:
    """A Debian suite, bootstrapped with these packages besides what every base has."""

    suite: str
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"debian:{self.suite}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerBase:
    """An image that the engine has or a registry gives."""

    reference: str

    def __str__(self) -> str:
        return f"docker:{self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OciBase:
    """An image in a folder of the OCI image layout: that of a tag, or the only one where it is empty."""

    path: Path
    tag: str = ""

    def __str__(self) -> str:
        return f"oci:{self.path}:{self.tag}" if self.tag else f"oci:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryBase:
    """An image that a registry gives, without an engine."""

    reference: str

    def __str__(self) -> str:
        return f"registry:{self.reference}"


AnyBase = DebianBase | DockerBase | OciBase | RegistryBase


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """An image to build.

    `project` is the folder its checks run in, `skip_imports` are modules that verify leaves alone,
    `layers` is how many layers it may have at most; modules are byte-compiled where `compile` says so,
    `wheels` is whether the files that were installed lie there too, to install from, and with `install`
    node_modules are there already. `sign` is the file of a private key, which may not be there where
    nothing is built.
    """

    name: str
    base: AnyBase
    locks: tuple[str, ...]
    python: str | None = None
    user: str = DEFAULT_USER
    env: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    project: Path | None = None
    skip_imports: tuple[str, ...] = ()
    layers: int = DEFAULT_BUDGET
    compile: bool = True
    wheels: bool = True
    compression: Compression = Compression.GZIP
    install: bool = False
    sign: Path | None = None


def load_images(config: Config) -> tuple[ImageSpec, ...]:
    """Read all of `[images]`. Raises ConfigError naming file, line and key."""
    images = load_document(config.file).table("images")
    return tuple(_image(name, table, config) for name, table in sorted(images.named_tables()))


def find_image(config: Config, name: str) -> ImageSpec:
    """Give the image of that name. Raises ConfigError."""
    images = {image.name: image for image in load_images(config)}
    if name not in images:
        known = ", ".join(images) or "none yet"
        raise ConfigError(
            f"there is no image {name!r}",
            where=str(config.file),
            hint=f"add [images.{name}] with base and locks; images there: {known}",
        )
    return images[name]


def choose_target(config: Config, spec: ImageSpec, machine: str) -> Target:
    """Choose the target an image is built for on a host whose `uname -m` is `machine`.

    Raises ConfigError when none fits.
    """
    fitting = [target for target in config.targets if target.arch == machine]
    if spec.python:
        fitting = [target for target in fitting if spec.python in (target.python, target.minor)]
    if not fitting:
        wanted = f"Python {spec.python} on {machine}" if spec.python else machine
        raise ConfigError(
            f"no configured target is {wanted}",
            where=f"{config.file}: images.{spec.name}",
            hint="[targets] has " + ", ".join(str(target) for target in config.targets),
        )
    return fitting[0]


def machine_of(config: Config, platform: str) -> str:
    """Say what `uname -m` gives on a platform in OCI's words, as in linux/arm64. Raises ConfigError."""
    found = next((target.arch for target in config.targets if target.oci_platform == platform), None)
    if found is None:
        there = sorted({target.oci_platform for target in config.targets})
        raise ConfigError(
            f"no configured target is for {platform}",
            where=str(config.file),
            hint=f"[targets] has {', '.join(there)}; add the platform there and run `mirror refresh`",
        )
    return found


def _image(name: str, table: Table, config: Config) -> ImageSpec:
    folder = config.file.parent
    project = table.string("project", None)
    locks = _locks(table, config)
    spec = ImageSpec(
        name=_name(table, name),
        base=_complete(_base(table, folder), locks, config),
        locks=locks,
        python=table.string("python", None),
        user=_user(table),
        env=_environment(table),
        checks=_lines(table, "checks"),
        project=existing_folder(table, "project", folder, project) if project else None,
        skip_imports=table.strings("skip_imports", ()),
        layers=_budget(table),
        compile=table.boolean("compile", default=True),
        wheels=table.boolean("wheels", default=True),
        compression=_compression(table),
        install=table.boolean("install", default=False),
        sign=folder / key if (key := table.string("sign", None)) else None,
    )
    table.finish()
    return spec


def _name(table: Table, name: str) -> str:
    if not _COMPONENT.fullmatch(check_name(table, name)):
        raise table.fault(
            "", f"{name!r} cannot name an image: one . or at most two _ between letters or digits"
        )
    return name


def _base(table: Table, folder: Path) -> AnyBase:
    kind, _, rest = table.string("base").partition(":")
    packages = table.strings("apt", ())
    if kind == "debian" and _SUITE.fullmatch(rest):
        return _debian(table, rest, packages)
    base: AnyBase | None = None
    if kind == "docker" and _REFERENCE.fullmatch(rest):
        base = DockerBase(reference=rest)
    elif kind == "registry" and _is_reference(rest):
        base = RegistryBase(reference=rest)
    elif kind == "oci" and rest and rest.isprintable():
        base = _layout(rest, folder)
    if base is None:
        raise table.fault(
            "base",
            "is not a base",
            "write debian:SUITE (debian:bookworm), docker:REFERENCE, registry:HOST/NAME:TAG or oci:DIR:TAG",
        )
    if packages:
        raise table.fault("apt", "is only for debian: bases", "put the packages into the base image")
    return base


def _debian(table: Table, suite: str, packages: Iterable[str]) -> DebianBase:
    for package in packages:
        if not _DEBIAN_PACKAGE.fullmatch(package):
            raise table.fault("apt", f"{package!r} is not the name of a Debian package")
    return DebianBase(suite=suite, packages=tuple(sorted(set(packages))))


def _layout(text: str, folder: Path) -> OciBase:
    """Read DIR or DIR:TAG; a folder is as seen from lockstock.toml."""
    path, _, tag = text.rpartition(":")
    if path and _TAG.fullmatch(tag):
        return OciBase(path=folder / path, tag=tag)
    return OciBase(path=folder / text)


def _is_reference(text: str) -> bool:
    try:
        Reference.parse_pinned(text)
    except BadReferenceError:
        return False
    return True


def _complete(base: AnyBase, locks: Iterable[str], config: Config) -> AnyBase:
    """Add to a Debian base what the ecosystems of the locks need."""
    if not isinstance(base, DebianBase):
        return base
    paths = (lock.path.name for lock in config.locks if lock.name in locks)
    needed = {package for path in paths for package in _ECOSYSTEM_PACKAGES[ecosystem_of(path)]}
    return replace(base, packages=tuple(sorted({*base.packages, *needed})))


def _locks(table: Table, config: Config) -> tuple[str, ...]:
    locks = table.strings("locks")
    known = [lock.name for lock in config.locks]
    for lock in locks:
        if lock not in known:
            raise table.fault("locks", f"there is no lock {lock!r}", f"[locks] has {', '.join(known)}")
    if not locks:
        raise table.fault("locks", "must name at least one lock", f"[locks] has {', '.join(known)}")
    return tuple(sorted(set(locks)))


def _budget(table: Table) -> int:
    budget = table.integer("layers", DEFAULT_BUDGET, minimum=1)
    if budget > MOST_LAYERS:
        raise table.fault("layers", f"is more than the {MOST_LAYERS} that engines can stack")
    return budget


def _compression(table: Table) -> Compression:
    text = table.string("compression", Compression.GZIP.value)
    try:
        return Compression(text)
    except ValueError:
        raise table.fault("compression", f"{text!r} is none", "write gzip, or zstd") from None


def _user(table: Table) -> str:
    user = table.string("user", DEFAULT_USER)
    if not _USER.fullmatch(user) or user == "root":
        raise table.fault("user", f"{user!r} cannot be the user", "small letters, digits, - and _; not root")
    return user


def _environment(table: Table) -> dict[str, str]:
    env = table.string_map("env")
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or name in _RESERVED:
            raise table.fault("env", f"{name!r} cannot be set here")
        if not value.isprintable():
            raise table.fault("env", f"the value of {name} has control characters")
    return dict(sorted(env.items()))


def _lines(table: Table, key: str) -> tuple[str, ...]:
    lines = table.strings(key, ())
    if any(not line.strip() or "\0" in line for line in lines):
        raise table.fault(key, "must be command lines")
    return lines
