"""Wheels of sdists: built once in a box without a network, by the base's own Python, and kept in the mirror.

BUILT/KEY/ holds a wheel and `provenance.json`, which says what it was built of and by. The key stands
for all of that: sdist, base, target and what was there to build with.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from imagegen.context import guest_program
from imagegen.engines.root import BaseRoot
from imagegen.errors import BuildError, WheelError
from imagegen.live import Progress
from imagegen.plan import ImagePlan
from mirror.snapshot import Stocked
from mirror.store import disk_errors, sync_folder, write_atomically

_PROGRAM = "build_wheel.py"
_PROVENANCE = "provenance.json"
_WORK = "/work"
_TAIL = 15
# Debug information would name folders whose names are made by chance.
_ENVIRONMENT = {
    "CFLAGS": "-O2 -g0",
    "CXXFLAGS": "-O2 -g0",
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
_NETWORK = re.compile(
    r"Network is unreachable|Temporary failure in name resolution|Name or service not known|urlopen error"
    r"|Could not resolve host|EAI_AGAIN"
)
_LACKING = re.compile(r"No matching distribution found for (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltWheel:
    """A wheel that was built here."""

    path: Path
    sha256: str

    @property
    def filename(self) -> str:
        """Its name, which tells what it fits."""
        return self.path.name


def is_sdist(file: Stocked) -> bool:
    """Say whether a file that pip can install has to be built first."""
    return not file.filename.endswith(".whl")


class SdistBuilder:
    """Builds below `folder`, which it alone uses; `stored` says where a file with a sha256 lies."""

    def __init__(
        self, root: BaseRoot, python: str, stored: Callable[[Stocked], Path], folder: Path, progress: Progress
    ) -> None:
        self._root = root
        self._python = python
        self._stored = stored
        self._folder = folder
        self._progress = progress

    def wheel(self, sdist: Stocked, plan: ImagePlan) -> BuiltWheel:
        """Give the wheel of an sdist for an image, building it where that was not done before.

        Raises BuildError where its build fails, WheelError where no wheel of it comes out, and
        UnsupportedError where programs of the base cannot be run.
        """
        facts = _facts(sdist, plan)
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self._held(key) or self._build(sdist, plan.build, facts, self._folder / key)

    def forget_lost(self, held: Callable[[str], bool]) -> None:
        """Drop the wheels of sdists that are not stocked any more."""
        for record in self._folder.glob(f"*/{_PROVENANCE}"):
            sdist = _sdist_of(record)
            if sdist is None or not held(sdist):
                shutil.rmtree(record.parent)

    def _held(self, key: str) -> BuiltWheel | None:
        """Give the wheel of that key if it is whole."""
        folder = self._folder / key
        try:
            known = json.loads((folder / _PROVENANCE).read_bytes())["wheel"]
            path = folder / known["filename"]
            if hashlib.sha256(path.read_bytes()).hexdigest() == known["sha256"]:
                return BuiltWheel(path=path, sha256=known["sha256"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def _build(
        self, sdist: Stocked, requirements: Sequence[Stocked], facts: dict[str, Any], place: Path
    ) -> BuiltWheel:
        from importlib.metadata import version  # it takes long to import, and most images have no sdists

        self._progress.step(f"building {sdist.filename} without a network (once)")
        self._root.prepare(self._python)
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for leftover in self._folder.glob(".*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as name:
                found = self._run(sdist, requirements, Path(name))
                fresh = Path(name, "kept")
                fresh.mkdir()
                sha256 = hashlib.sha256(found.read_bytes()).hexdigest()
                described = {"filename": found.name, "sha256": sha256, "size": found.stat().st_size}
                record = {**facts, "wheel": described, "builder": f"lockstock {version('lockstock')}"}
                found.rename(fresh / found.name).chmod(0o444)
                text = json.dumps(record, indent=1, sort_keys=True) + "\n"
                write_atomically(fresh / _PROVENANCE, text.encode())
                fresh.rename(place)
            sync_folder(self._folder)
        return BuiltWheel(path=place / found.name, sha256=sha256)

    def _run(self, sdist: Stocked, requirements: Sequence[Stocked], folder: Path) -> Path:
        """Build below a folder; what is stocked can be read from inside, and not changed."""
        work = folder / "work"
        for name in ("sdist", "requirements", "out"):
            (work / name).mkdir(parents=True)
        files = {f"{_WORK}/requirements/{file.filename}": self._stored(file) for file in requirements}
        files[f"{_WORK}/sdist/{sdist.filename}"] = self._stored(sdist)
        program = guest_program(_PROGRAM).decode()
        ended = self._root.run([self._python, "-I", "-c", program, _WORK], {_WORK: work}, files, _ENVIRONMENT)
        if ended.returncode:
            self._tell(ended.stdout)
            raise _failed(sdist, ended.stdout)
        return _only_wheel(sdist, work / "out")

    def _tell(self, output: str) -> None:
        for line in [line.rstrip() for line in output.splitlines() if line.strip()][-_TAIL:]:
            self._progress.step(f"  │ {line}")


def _sdist_of(record: Path) -> str | None:
    """Give the sha256 of the sdist of a built wheel; None where its record is damaged."""
    try:
        return str(json.loads(record.read_bytes())["sdist"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _facts(sdist: Stocked, plan: ImagePlan) -> dict[str, Any]:
    """Say everything that decides a wheel."""
    return {
        "sdist": {"filename": sdist.filename, "sha256": sdist.sha256},
        "base": {"name": plan.base.name, "digest": plan.base.digest},
        "target": plan.target,
        "requirements": sorted((file.filename, file.sha256) for file in plan.build),
        "environment": _ENVIRONMENT,
        "program": hashlib.sha256(guest_program(_PROGRAM)).hexdigest(),
        "network": "none",
    }


def _only_wheel(sdist: Stocked, folder: Path) -> Path:
    # The build could write where it lies: a link in its place leads to a folder of this host.
    if folder.is_symlink() or not folder.is_dir():
        raise WheelError("its build took away the folder for its wheel", where=sdist.filename)
    found = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    try:
        (wheel,) = found
        name, built = parse_wheel_filename(wheel.name)[:2]
        # A lock may write a version otherwise than the file names of wheels do: 2021.01 for 2021.1.
        if (name, built) == (canonicalize_name(sdist.name), Version(sdist.version)):
            return wheel
        reason = f"its build made {wheel.name}"
    except ValueError:
        reason = f"its build made {len(found)} files, and none of them is its wheel"
    raise WheelError(reason, where=sdist.filename)


def _failed(sdist: Stocked, output: str) -> BuildError:
    if lacking := _LACKING.search(output):
        reason = f"its build asks for {lacking[1]}, which is not stocked to build with"
        hint = "it is named in no [build-system]: ask its makers, or lock a version that has a wheel"
    elif _NETWORK.search(output):
        reason = "its build wants a network, and there is none"
        hint = "put what it downloads into the image's base (`apt`), or lock a version that has a wheel"
    else:
        reason = "its build fails"
        hint = "what it needs besides Python may be missing from the base: name it in the image's `apt`"
    return BuildError(reason, where=sdist.filename, hint=f"{hint}; the last that it said is above")
