"""A plan that no engine or mirror was asked for."""

from __future__ import annotations

from imagegen.plan import Base
from imagegen.spec import DebianBase, ImageSpec
from lockfiles.target import Target
from mirror.snapshot import LockRecord, Selected, Snapshot, Stocked

TARGET = Target("3.11")
BASE = Base(
    name="debian:bookworm", reference="lockstock/base:bookworm-0123456789ab", digest=f"sha256:{'0' * 64}"
)
SPEC = ImageSpec(
    name="dev",
    base=DebianBase(suite="bookworm"),
    locks=("app",),
    env={"GREETING": 'a "b" $HOME \\ c', "MODE": "test"},
)


def artifact(filename: str, letter: str, ecosystem: str = "pypi") -> Stocked:
    """Describe a file whose sha256 is one letter, 64 times."""
    name, version = filename.removesuffix(".tar.gz").split("-")[:2]
    return Stocked(
        ecosystem=ecosystem, name=name.replace("_", "-"), version=version, filename=filename,
        sha256=letter * 64, size=100, url=f"https://index.example/{filename}",
    )  # fmt: skip


ALPHA = artifact("alpha-1.0-py3-none-any.whl", "a")
BETA = artifact("beta_package-2.1-py3-none-any.whl", "b")
SETUPTOOLS = artifact("setuptools-80.0-py3-none-any.whl", "c")
UV = artifact("uv-0.9.0-py3-none-manylinux_2_17_x86_64.whl", "d")
LEFT_PAD = artifact("left_pad-1.0.tgz", "e", ecosystem="npm")


def snapshot(**locks: tuple[Stocked, ...]) -> Snapshot:
    """Make a snapshot; `app__build` stands for app:build and `__tools` for :tools."""
    named = {name.replace("__", ":"): files for name, files in locks.items()}
    return Snapshot.of(
        [LockRecord(name=name, path=name, format="requirements.txt", sha256="f" * 64) for name in named],
        [file for files in named.values() for file in files],
        [
            Selected(lock=name, target=str(TARGET), artifacts=tuple(file.sha256 for file in files))
            for name, files in named.items()
        ],
    )


SNAPSHOT = snapshot(app=(ALPHA, BETA), app__build=(SETUPTOOLS,), __tools=(UV,), other=(), web=(LEFT_PAD,))
