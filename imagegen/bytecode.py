"""Byte-compiled modules, made by the base's own Python in a box without a network; equal each time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath

from imagegen.archive import Entry
from imagegen.context import guest_program
from imagegen.engines.root import BaseRoot
from imagegen.errors import BuildError, UnsupportedError
from imagegen.guest.compile_stream import number
from imagegen.oci import EPOCH

# Sets are ordered by hash, and what is compiled must not depend on chance.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin"}
_NOBODY = "65534:65534"
_LIMIT = 1800


class Compiler:
    """Compiles with the Python of one base."""

    def __init__(self, root: BaseRoot, python: str) -> None:
        self._root = root
        self._python = f"/usr/bin/python{python}"
        self._tag = f"cpython-{python.replace('.', '')}"

    def compiled(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Give the .pyc beside each module; sources that are no Python of this version have none.

        Raises UnsupportedError where the base's Python cannot be run, BuildError where it fails.
        """
        sources = sorted((e for e in entries if e.path.endswith(".py")), key=lambda entry: entry.path)
        if not sources:
            return
        given = b"".join(_field(f"/{e.path}".encode()) + _field(_bytes(e)) for e in sources)
        program = guest_program("compile_stream.py").decode()
        ended = subprocess.run(
            [*self._box, self._python, "-sSB", "-W", "ignore", "-c", program, str(EPOCH)],
            input=given,
            capture_output=True,
            env=_ENVIRONMENT,
            timeout=_LIMIT,
            check=False,
        )
        if ended.returncode:
            raise BuildError(
                f"the base's Python does not compile: {ended.stderr.decode(errors='replace').strip()[-300:]}",
                where=sources[0].path,
                hint="set `compile = false` for the image to leave it to whoever imports a module first",
            )
        for source, pyc in zip(sources, _fields(ended.stdout), strict=True):
            if pyc:
                path = PurePosixPath(source.path)
                cached = path.parent / "__pycache__" / f"{path.stem}.{self._tag}.pyc"
                yield Entry(path=str(cached), content=pyc)

    def prepare(self) -> None:
        """Unpack the base and find a way to run its Python. Raises UnsupportedError."""
        self._root.prepare(self._python)
        _ = self._box

    @cached_property
    def _box(self) -> list[str]:
        for words in self._boxes():
            tried = subprocess.run(
                [*words, self._python, "-c", ""], capture_output=True, env=_ENVIRONMENT, check=False
            )
            if tried.returncode == 0:
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


def _bytes(entry: Entry) -> bytes:
    return entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()


def _field(data: bytes) -> bytes:
    return number(len(data)) + data


def _fields(data: bytes) -> Sequence[bytes]:
    found, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        found.append(data[start + 4 : end])
        start = end
    return found
