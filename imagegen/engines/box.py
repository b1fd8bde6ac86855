"""A box of namespaces, made by bubblewrap, in which an image's unpacked layers are tried out.

It has no network but its own loopback, its one user is the image's, and it needs no daemon. All
files belong to that user in it, root's too: what is tried there is what works, not what is forbidden.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from imagegen.archive import Entry, tar_stream
from imagegen.compression import plain
from imagegen.engines.model import Ran
from imagegen.engines.root import run_bounded
from imagegen.engines.untar import untar
from imagegen.errors import BuildError, EngineUnavailableError
from imagegen.merged import merge
from imagegen.oci import Image, ImageLayout
from imagegen.plan import UID
from mirror.store import disk_errors

_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"


class Box:
    """A context manager: the image's files are unpacked below `folder` inside the block.

    Whoever holds `owner` is alone with that name; what a killed run left there is removed first.
    """

    def __init__(self, image: Image, layout: ImageLayout, folder: Path, owner: str) -> None:
        self._image = image
        self._layout = layout
        self._folder = folder / owner
        self._root = self._folder
        self._config = json.loads(image.config)["config"]

    def __enter__(self) -> Box:
        """Unpack. Raises EngineUnavailableError without bubblewrap, BuildError, DiskFullError."""
        if not shutil.which("bwrap"):
            raise EngineUnavailableError(
                "no Docker engine answers, and bubblewrap is not installed",
                hint="apt-get install --no-install-recommends bubblewrap, or start an engine",
            )
        shutil.rmtree(self._folder, ignore_errors=True)
        with disk_errors(self._folder):
            # There are programs in it that run as root for whoever may reach them.
            self._folder.mkdir(mode=0o700, parents=True)
            self._root = Path(tempfile.mkdtemp(dir=self._folder))
            self._root.chmod(0o755)
        try:
            self._unpack()
            self._name_loopback()
        except BaseException:  # half of it is of no use, and may be what fills the disk
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _unpack(self) -> None:
        """Unpack all layers as one: those of a base may be somebody else's, and links lead astray."""
        with disk_errors(self._folder), tempfile.TemporaryDirectory(dir=self._folder) as name:
            plains = [Path(name, str(number)) for number in range(len(self._image.layers))]
            for path, layer in zip(plains, self._image.layers, strict=True):
                with path.open("wb") as file:
                    file.writelines(plain(self._layout.blob(layer.digest)))
            with Path(name, "merged").open("wb") as file:
                merge(plains, file, self._image.digest)
            self._untar(self._root, ["-f", str(Path(name, "merged"))], what="a layer")

    def put(self, entries: Iterable[Entry], folder: str, *, uid: int) -> None:
        """Copy files into a folder of the box. Raises BuildError where a link leads out of the box."""
        place, listed = self._root / folder.lstrip("/"), list(entries)
        for parent in {place, *((place / entry.path).parent for entry in listed)}:
            self._check_inside(parent)
        self._untar(
            place, ["-f", "-"], what=f"what goes to {folder}", data=b"".join(tar_stream(listed, uid=uid))
        )

    def _check_inside(self, folder: Path) -> None:
        """Links of the image are followed on this host here: an absolute one leads out of the box."""
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self._root)):
            raise BuildError(
                f"a link of the image leads out of it in the place of /{folder.relative_to(self._root)}",
                where=self._image.digest,
                hint="use a base that has a folder there",
            )

    def run(self, command: Sequence[str], *, limit: int) -> Ran:
        """Run a command as the image's user for at most `limit` seconds; stdout and stderr come as one."""
        started = time.monotonic()
        ended = run_bounded([*self._words(), "timeout", "-k", "5", str(limit), *command])
        return Ran(code=ended.returncode, output=ended.stdout, seconds=time.monotonic() - started)

    def _words(self) -> list[str]:
        variables = dict(entry.split("=", 1) for entry in self._config["Env"])
        home = f"/home/{self._config['User']}"
        words = ["bwrap", "--unshare-all", "--unshare-user", "--uid", str(UID), "--gid", str(UID)]
        words += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
        words += ["--bind", str(self._root), "/", "--proc", "/proc", "--dev", "/dev"]
        for name, value in {"HOME": home, **variables}.items():
            words += ["--setenv", name, value]
        return [*words, "--chdir", self._config["WorkingDir"], "--"]

    def _name_loopback(self) -> None:
        """Say what localhost is, as engines do, unless the image does; a link may lead out of it."""
        hosts = self._root / "etc" / "hosts"
        if not (hosts.parent.is_symlink() or hosts.is_symlink() or hosts.exists()):
            hosts.parent.mkdir(exist_ok=True)
            hosts.write_text(_HOSTS)

    def _untar(self, folder: Path, options: Sequence[str], *, what: str, data: bytes = b"") -> None:
        words = ["-p", "--exclude=./dev/*", *options]
        untar(folder, words, what=what, where=str(self._folder), data=data)
