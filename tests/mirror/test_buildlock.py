"""Build requirements: read as text, resolved once, for the target and not for this machine."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from lockfiles.target import Target
from mirror.buildlock import BuildLocks, build_requirements, sdist_pyproject
from mirror.config import UpstreamSpec
from mirror.errors import ResolutionError
from tests.index_server import IndexServer
from tests.wheels import make_sdist, make_wheel


@pytest.mark.parametrize(
    ("text", "requires"),
    [
        (None, ("setuptools>=40.8.0", "wheel")),
        ("[project]\nname = 'x'\n", ("setuptools>=40.8.0", "wheel")),
        (
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"',
            ("editables>=0.3", "hatchling"),
        ),
        (
            '[build-system]\nrequires = ["flit_core<4"]\nbuild-backend = "flit_core.buildapi"',
            ("flit_core<4",),
        ),
        ("[build-system]\nrequires = []\nbuild-backend = 'own'", ()),
    ],
)
def test_what_a_build_asks_for(text: str | None, requires: tuple[str, ...]) -> None:
    assert build_requirements(text) == requires


@pytest.mark.parametrize(
    "text",
    [
        "[build-system]\nrequires = 3",
        "build-system = 1",
        "[build-system]",
        "[",
        "[build-system]\nrequires = [1]",
    ],
)
def test_a_pyproject_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError):
        build_requirements(text)


def test_pyproject_is_read_out_of_an_sdist(tmp_path: Path) -> None:
    sdist = make_sdist(
        tmp_path, "legacy", "1.0", files={"pyproject.toml": "# here", "deep/pyproject.toml": "# deep"}
    )
    assert sdist_pyproject(sdist, sdist.name) == "# here"
    assert sdist_pyproject(sdist, sdist.name, "deep") == "# deep"
    assert sdist_pyproject(sdist, sdist.name, "nowhere") is None


def test_pyproject_is_read_out_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "legacy-1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("legacy-1.0/pyproject.toml", "# here")
    assert sdist_pyproject(path, path.name) == "# here"


def test_hostile_sdists(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb-1.0.tar.gz"
    with tarfile.open(bomb, "w:gz") as archive:
        member = tarfile.TarInfo("bomb-1.0/pyproject.toml")
        member.size = 50 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ValueError, match="larger than"):
        sdist_pyproject(bomb, bomb.name)
    link = tmp_path / "link-1.0.tar.gz"
    with tarfile.open(link, "w:gz") as archive:
        member = tarfile.TarInfo("link-1.0/pyproject.toml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert sdist_pyproject(link, link.name) is None
    broken = tmp_path / "broken-1.0.tar.gz"
    broken.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(ValueError, match="archive"):
        sdist_pyproject(broken, broken.name)


@pytest.fixture
def resolver(index: IndexServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildLocks:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    make_wheel(
        index.folder,
        "backend",
        "1.0",
        requires=['old; python_version < "3.10"', 'arm; platform_machine == "aarch64"'],
    )
    make_wheel(index.folder, "backend", "2.0", requires_python=">=3.12")
    make_wheel(index.folder, "old", "1.0")
    make_wheel(index.folder, "arm", "1.0", tag="cp39-cp39-manylinux_2_17_aarch64")
    return BuildLocks(folder=tmp_path / "locks", upstreams=(UpstreamSpec(index=index.index),))


@pytest.mark.parametrize(
    ("target", "pins"),
    [
        ("3.11/linux/amd64", ["backend==1.0"]),
        ("3.9/linux/amd64", ["backend==1.0", "old==1.0"]),
        ("3.9/linux/arm64", ["arm==1.0", "backend==1.0", "old==1.0"]),
    ],
)
def test_resolves_for_the_target(resolver: BuildLocks, target: str, pins: list[str]) -> None:
    text = resolver.resolve(["backend"], Target.parse(target)).read_text()
    assert [line.split()[0] for line in text.splitlines() if "==" in line] == pins
    assert text.count("--hash=sha256:") == len(pins)


def test_a_wheel_that_does_not_fit_the_target_is_not_taken(resolver: BuildLocks) -> None:
    with pytest.raises(ResolutionError, match="arm"):
        resolver.resolve(["arm"], Target.parse("3.11/linux/amd64"))


def test_is_resolved_once(resolver: BuildLocks, index: IndexServer) -> None:
    target = Target.parse("3.11/linux/amd64")
    first = resolver.resolve(["backend"], target)
    index.requests.clear()
    assert resolver.resolve(["backend"], target) == first
    assert index.requests == []


def test_what_cannot_be_resolved(resolver: BuildLocks) -> None:
    with pytest.raises(ResolutionError, match="No matching distribution found for nowhere"):
        resolver.resolve(["nowhere>1"], Target.parse("3.11/linux/amd64"))
    assert not list(resolver.folder.glob("*"))
