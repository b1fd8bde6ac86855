"""A project whose mirror was stocked by hand, without an upstream."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import parse_sdist_filename, parse_wheel_filename

from mirror import config as configuration
from mirror.config import Config
from mirror.inputs import read_locks
from mirror.layout import Layout
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked
from tests.wheels import digest

CONFIG = """\
[targets]
python = ["3.11"]
platforms = ["linux/{machine}"]
glibc = "2.36"

[locks.app]
path = "{lock}"

"""


@dataclass(frozen=True, slots=True)
class StockedProject:
    """A folder with lockstock.toml, requirements.txt and a filled mirror."""

    folder: Path
    lock: str = "requirements.txt"

    @property
    def config(self) -> Config:
        return configuration.load(self.folder / "lockstock.toml")

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / ".lockstock")

    def configure(self, images: str) -> None:
        text = CONFIG.format(machine=platform.machine(), lock=self.lock)
        (self.folder / "lockstock.toml").write_text(text + images)

    def stock(self, files: Mapping[str, Sequence[Path]]) -> Snapshot:
        """Write a snapshot whose locks hold these files, and the lock of `app` if it is the usual one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.lock == "requirements.txt":
            locked = [(stocked(file), digest(file)) for file in files["app"]]
            lines = [f"{one.name}=={one.version} --hash=sha256:{sha256}\n" for one, sha256 in locked]
            (self.folder / self.lock).write_text("".join(sorted(lines)))
        self.configure("")
        config = self.config
        records = [lock.record(self.folder) for lock in read_locks(config, Layout(config.root))[0]]
        companions = [
            LockRecord(name=name, path="", format="requirements.txt", sha256="0" * 64)
            for name in files
            if ":" in name
        ]
        snapshot = Snapshot.of(
            [*records, *companions],
            [stocked(file) for paths in files.values() for file in paths],
            [
                Selected(
                    lock=name, target=str(config.targets[0]), artifacts=tuple(sorted(map(digest, paths)))
                )
                for name, paths in files.items()
            ],
        )
        for paths in files.values():
            for file in paths:
                target = self.layout.store.path(digest(file))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        self.layout.snapshots.switch(self.layout.snapshots.add(snapshot))
        return snapshot

    def share_bases(self, cache: Path) -> None:
        """Use the bases of the tests' cache, packed and unpacked, and keep new ones there.

        So are the layers that are made of them: to compress one takes half a minute.
        """
        for name, folder in (("bases", cache), ("roots", cache.parent / "roots")):
            folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".lockstock" / name).symlink_to(folder)
        self._shared.copy_bases(Layers(self.layout.root))

    def imagegen(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the `imagegen` command to its end."""
        ended = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if "build" in arguments and (self.layout.root / "bases").is_symlink():
            Layers(self.layout.root).copy_bases(self._shared)
        return ended

    @property
    def _shared(self) -> Layers:
        return Layers((self.layout.root / "bases").resolve().parent / "base-layers")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "imagegen", *arguments]

    def json(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
        """Run a command that must go well and give its report."""
        ended = self.imagegen(*arguments, "--json", environment=environment)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)


@dataclass(frozen=True)
class Layers:
    """What a mirror has of layers: the records, and the blobs that they name."""

    root: Path

    def copy_bases(self, to: Layers) -> None:
        """Copy the layers of bases that the other has not."""
        for record in self.root.glob("layers/*.json"):
            layer = json.loads(record.read_text())["layer"]
            if layer["comment"].startswith("debian:") and not (to.root / "layers" / record.name).exists():
                blob = f"oci/blobs/{layer['digest'].replace(':', '/')}"
                for name in (blob, f"layers/{record.name}"):
                    if (self.root / name).exists():
                        _copy(self.root / name, to.root / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
        shutil.copyfile(source, file.name)
    Path(file.name).chmod(0o444)
    Path(file.name).rename(target)


def path_without(program: str, folder: Path) -> str:
    """Give a PATH on which everything but one program is, by links in a new folder."""
    folder.mkdir()
    for place in map(Path, os.environ["PATH"].split(":")):
        for tool in place.glob("*") if place.is_dir() else ():
            if tool.name != program and not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
    return str(folder)


def stocked(file: Path) -> Stocked:
    """Describe a file as a snapshot does."""
    parse = parse_wheel_filename if file.suffix == ".whl" else parse_sdist_filename
    name, version = parse(file.name)[:2]
    return Stocked(
        ecosystem="pypi",
        name=str(name),
        version=str(version),
        filename=file.name,
        sha256=digest(file),
        size=file.stat().st_size,
        url=f"https://index.example/{file.name}",
    )
