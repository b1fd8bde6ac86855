"""Byte-compiled modules, made by the base's own Python in a box without a network; equal each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from threading import Timer
from typing import IO, Protocol

from imagegen.archive import Entry
from imagegen.context import guest_program
from imagegen.engines.root import BaseRoot
from imagegen.errors import BuildError, UnsupportedError
from imagegen.guest.compile_stream import number
from imagegen.oci import EPOCH
from imagegen.rootfs import RootFs

# Sets are ordered by hash, and what is compiled must not depend on chance.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin"}
# Where Python is given its program, it looks for modules in the folder that it is in, before all others.
_NOWHERE = "/"
_NOBODY = "65534:65534"
_LIMIT = 1800
_SAID = 300
# Bytecode is about as large as its source; more than this is none.
_MOST_MADE, _MOST_FOLD = 64 << 20, 16


class Interpreter(Protocol):
    """A Python that compiles: one that runs on this machine and makes bytecode for the image's."""

    @property
    def build(self) -> str:
        """What the bytecode depends on besides the sources."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """The command that starts it. Raises UnsupportedError where it cannot be run."""
        ...


class Compiler:
    """Compiles for one minor version of Python."""

    def __init__(self, interpreter: Interpreter, python: str) -> None:
        self._interpreter = interpreter
        self._tag = f"cpython-{python.replace('.', '')}"
        self.build = interpreter.build

    def compiled(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Give the .pyc beside each module; sources that are no Python of this version have none.

        Raises UnsupportedError where the base's Python cannot be run, BuildError where it fails.
        """
        sources = sorted((e for e in entries if e.path.endswith(".py")), key=lambda entry: entry.path)
        if not sources:
            return
        given = b"".join(_field(f"/{e.path}".encode()) + _field(b"".join(e.pieces())) for e in sources)
        program = guest_program("compile_stream.py").decode()
        words = [*self._interpreter.words, "-sSB", "-W", "ignore", "-c", program, str(EPOCH)]
        code, made, said = _stream(words, given)
        found = _fields(made) if code == 0 else []
        if len(found) != len(sources):
            raise BuildError(
                f"Python does not compile: {said or f'it ended with {code}'}",
                where=sources[0].path,
                hint="set `compile = false` for the image to leave it to whoever imports a module first",
            )
        for source, pyc in zip(sources, found, strict=True):
            if pyc:
                path = PurePosixPath(source.path)
                cached = path.parent / "__pycache__" / f"{path.stem}.{self._tag}.pyc"
                yield Entry(path=str(cached), content=pyc)

    def prepare(self) -> None:
        """Find a way to run the interpreter. Raises UnsupportedError."""
        _ = self._interpreter.words


class BasePython:
    """The base's own Python, in a box without a network."""

    def __init__(self, root: BaseRoot, facts: RootFs) -> None:
        self._root = root
        self._python = f"{facts.prefix}/bin/python{facts.minor}"
        # One that is not Debian's finds its library by a cache that the box does not have.
        self._library = f"{facts.prefix}/lib"
        self.build = facts.build

    @cached_property
    def words(self) -> Sequence[str]:
        """The command in the first box that works."""
        self._root.prepare(self._python)
        for box in self._boxes():
            words = [*box, "/usr/bin/env", f"LD_LIBRARY_PATH={self._library}", self._python]
            if _runs(words):
                return words
        raise UnsupportedError(
            "the base's Python cannot be run to compile modules",
            where=str(self._root.path),
            hint="install bubblewrap (apt-get install bubblewrap), set `compile = false` for the image, or "
            "use --engine docker",
        )

    def _boxes(self) -> Iterator[list[str]]:
        bwrap, chroot = shutil.which("bwrap"), shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
        if bwrap:
            words = ["--unshare-all", "--die-with-parent", *self._root.mounts()]
            yield [bwrap, *words, "--proc", "/proc", "--dev", "/dev"]
        if chroot and os.geteuid() == 0:
            yield [chroot, f"--userspec={_NOBODY}", str(self._root.path)]


class HostPython:
    """A Python of this host: bytecode does not depend on the processor, only on the minor version."""

    def __init__(self, python: str, version: str) -> None:
        self._python = python
        self.build = f"host {version}"

    @classmethod
    def find(cls, minor: str) -> HostPython | None:
        """Find one of this minor version, if this host has it."""
        own = ".".join(map(str, sys.version_info[:2])) == minor
        python = sys.executable if own else shutil.which(f"python{minor}")
        if not python:
            return None
        asked = subprocess.run(
            [python, "-I", "-c", "import sys; print(sys.version)"],
            capture_output=True,
            text=True,
            check=False,
        )
        return cls(python, asked.stdout.strip()) if asked.returncode == 0 else None

    @cached_property
    def words(self) -> Sequence[str]:
        """The command, in a box where one can be made: the sources are somebody else's."""
        bwrap = shutil.which("bwrap")
        box = (
            [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev"]
            if bwrap
            else []
        )
        return [*box, self._python] if box and _runs([*box, self._python]) else [self._python]


def _stream(words: Sequence[str], given: bytes) -> tuple[int, bytes, str]:
    """Run a command of somebody else's on some bytes: its exit code, its stdout, the last of its stderr.

    Neither may have an end: where there is too much of it, or after too long a time, it is killed.
    """
    most, started = _MOST_MADE + _MOST_FOLD * len(given), time.monotonic()
    with TemporaryFile() as file, ThreadPoolExecutor(1) as pool:
        file.write(given)
        file.seek(0)
        with subprocess.Popen(
            words,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd=_NOWHERE,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - for the type checker: they are pipes
            assert process.stderr is not None  # noqa: S101 - as above
            last = pool.submit(_last, process.stderr)
            timer = Timer(_LIMIT, process.kill)
            timer.start()
            try:
                made = process.stdout.read(most + 1)
                if len(made) > most:
                    process.kill()
                said = last.result()
                process.wait()
            finally:
                timer.cancel()
    if len(made) > most:
        said = f"it gave more than {most} bytes"
    elif time.monotonic() - started >= _LIMIT:
        said = f"it was not done after {_LIMIT} s"
    return process.returncode, made, said


def _last(stream: IO[bytes]) -> str:
    kept = b""
    while chunk := stream.read1():  # type: ignore[attr-defined]  # it is buffered
        kept = (kept + chunk)[-_SAID:]
    return kept.decode(errors="replace").strip()


def _runs(words: Sequence[str]) -> bool:
    command = [*words, "-c", ""]
    tried = subprocess.run(command, capture_output=True, env=_ENVIRONMENT, cwd=_NOWHERE, check=False)
    return tried.returncode == 0


def _field(data: bytes) -> bytes:
    return number(len(data)) + data


def _fields(data: bytes) -> Sequence[bytes]:
    """Give the fields that are whole."""
    found, start = [], 0
    while start + 4 <= len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data):
            break
        found.append(data[start + 4 : end])
        start = end
    return found
