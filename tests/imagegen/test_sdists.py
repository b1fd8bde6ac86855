"""Sdists in the direct engine: built once without a network, the same each time, and harmless."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imagegen.engines.oci import check_supported, foreign_python
from imagegen.engines.root import BaseRoot
from imagegen.errors import UnsupportedError
from imagegen.live import Silent
from imagegen.plan import make_plan
from imagegen.sdists import SdistBuilder
from lockfiles.target import Target
from tests.imagegen.plans import BASE, SPEC, artifact, snapshot
from tests.imagegen.stocked import StockedProject, path_without
from tests.wheels import digest, make_sdist, make_wheel

NAME = "pytest-sdists"
IMAGE = f"""
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
"""
NO_ENGINE = {"DOCKER_HOST": "unix:///nothing.sock"}
SITE = "opt/lockstock/venv/lib/python3.11/site-packages"
network = pytest.mark.network
root = pytest.mark.root


def stocked(folder: Path, cache: Path, real_wheels: dict[str, Path], setup: str = "", **more: Any) -> Any:
    """A project whose lock holds one sdist, with what it is built with."""
    files = {"setup.py": f"{setup}\nfrom setuptools import setup\nsetup()\n", **more.pop("files", {})}
    project = StockedProject(folder / "project")
    build = more.pop("build", [real_wheels["setuptools"]])
    sdist = make_sdist(folder / "up", "alpha", "1.0", files=files, **more)
    project.stock({"app": [sdist], "app:build": build})
    project.share_bases(cache / "bases")
    project.configure(IMAGE)
    return project


def build(project: StockedProject, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    ended = project.imagegen("build", NAME, "--engine", "oci", "--json", *arguments, environment=NO_ENGINE)
    assert "Traceback" not in ended.stderr.replace("│ Traceback", "")
    return ended.returncode, ended.stderr, json.loads(ended.stdout) if ended.returncode == 0 else {}


def kept(project: StockedProject) -> Path:
    (wheel,) = (project.layout.root / "built").glob("*/*.whl")
    return wheel


def members(folder: Path) -> set[str]:
    found: set[str] = set()
    for blob in (folder / "blobs" / "sha256").iterdir():
        if tarfile.is_tarfile(blob) and blob.stat().st_size < 20 << 20:
            with tarfile.open(blob) as archive:
                found |= set(archive.getnames())
    return found


@network
@root
def test_built_once_and_the_same_each_time(tmp_path: Path, cache: Path, real_wheels: dict[str, Path]) -> None:
    noted = "import os; open('alpha_built.py', 'w').write('by = ' + repr(os.environ['SOURCE_DATE_EPOCH']))"
    pyproject = {"pyproject.toml": (
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "alpha"\nversion = "1.0"\n'
        '[tool.setuptools]\npy-modules = ["alpha", "alpha_built"]\n'
    )}  # fmt: skip
    project = stocked(tmp_path, cache, real_wheels, noted, files=pyproject)

    code, said, first = build(project, "-o", "oci:out")

    assert code == 0, said
    assert "building alpha-1.0.tar.gz without a network (once)" in said
    names = members(project.folder / "out")
    assert {f"{SITE}/alpha.py", f"{SITE}/alpha_built.py", "opt/lockstock/wheels/alpha-1.0.tar.gz"} <= names
    wheel, sha256 = kept(project), digest(kept(project))
    record = json.loads((wheel.parent / "provenance.json").read_text())
    assert record["wheel"] == {"filename": wheel.name, "sha256": sha256, "size": wheel.stat().st_size}
    assert record["sdist"]["filename"] == "alpha-1.0.tar.gz"
    assert record["base"]["digest"].startswith("sha256:")
    assert record["requirements"] == [[real_wheels["setuptools"].name, digest(real_wheels["setuptools"])]]

    for name in ("oci", "layers"):
        shutil.rmtree(project.layout.root / name)
    code, said, again = build(project)
    assert (code, again["manifest"]) == (0, first["manifest"])
    assert "building alpha" not in said

    for name in ("oci", "layers"):
        shutil.rmtree(project.layout.root / name)
    wheel.chmod(0o644)
    wheel.write_bytes(b"damaged")
    code, said, third = build(project)
    assert "building alpha" in said
    assert (digest(kept(project)), third["manifest"]) == (sha256, first["manifest"])

    project.stock({"app": [make_wheel(tmp_path / "up", "alpha", "1.0")], "app:build": []})
    project.configure(IMAGE)
    project.layout.store.path(digest(tmp_path / "up" / "alpha-1.0.tar.gz")).unlink()
    assert build(project)[0] == 0
    assert not list((project.layout.root / "built").iterdir())


HOSTILE = """
import glob, os
for path in [*glob.glob('/work/requirements/*'), *glob.glob('/work/sdist/*')]:
    try:
        os.chmod(path, 0o666)
        open(path, 'r+b').write(b'changed')
    except OSError as error:
        print('refused:', error)
    else:
        raise SystemExit('it could be changed')
"""
FAULTS = {
    "a network": (
        "import socket; socket.create_connection(('192.0.2.1', 80), 5)",
        "its build wants a network, and there is none",
    ),
    "a name": (
        "import urllib.request; urllib.request.urlopen('http://files.example/x')",
        "its build wants a network, and there is none",
    ),
    "a compiler": ("raise SystemExit('no compiler here')", "its build fails"),
}


@network
@root
@pytest.mark.parametrize(("setup", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_build_that_fails(
    tmp_path: Path, cache: Path, real_wheels: dict[str, Path], setup: str, reason: str
) -> None:
    project = stocked(tmp_path, cache, real_wheels, setup)

    code, said, _ = build(project)

    assert code == 42
    assert f"alpha-1.0.tar.gz: {reason}" in said
    assert "│ " in said
    assert not list((project.layout.root / "built").iterdir())


@network
@root
def test_what_is_stocked_cannot_be_changed_by_a_build(
    tmp_path: Path, cache: Path, real_wheels: dict[str, Path]
) -> None:
    project = stocked(tmp_path, cache, real_wheels, HOSTILE)

    assert build(project)[0] == 0

    for sha256 in project.layout.store.digests():
        assert hashlib.sha256(project.layout.store.path(sha256).read_bytes()).hexdigest() == sha256


@network
@root
def test_nothing_to_build_with(tmp_path: Path, cache: Path, real_wheels: dict[str, Path]) -> None:
    project = stocked(tmp_path, cache, real_wheels, build=[])

    code, said, _ = build(project)

    assert code == 42
    assert "its build asks for setuptools, which is not stocked to build with" in said


@network
@root
def test_a_build_that_makes_another_package(
    tmp_path: Path, cache: Path, real_wheels: dict[str, Path]
) -> None:
    other = '[build-system]\nrequires = ["setuptools"]\n[project]\nname = "other"\nversion = "1.0"\n'
    project = stocked(tmp_path, cache, real_wheels, files={"pyproject.toml": other})

    code, said, _ = build(project)

    assert code == 48
    assert "its build made other-1.0-py3-none-any.whl" in said


@network
@root
def test_without_bubblewrap(tmp_path: Path, cache: Path, real_wheels: dict[str, Path]) -> None:
    project = stocked(tmp_path, cache, real_wheels)
    environment = {**NO_ENGINE, "PATH": path_without("bwrap", tmp_path / "bin")}

    ended = project.imagegen("build", NAME, "--engine", "oci", environment=environment)
    auto = project.imagegen("build", NAME, environment=environment)

    assert ended.returncode == 61
    assert "bubblewrap is not installed" in ended.stderr
    assert auto.returncode == 40  # it goes on to ask the engine
    assert "building with the Docker engine" in auto.stderr


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b"\xff", b'{"sdist": 1}', b"[" * 100_000])
def test_a_damaged_record_is_that_of_a_lost_wheel(tmp_path: Path, record: bytes) -> None:
    for name, content in (("damaged", record), ("whole", b'{"sdist": {"sha256": "a"}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_bytes(content)
    root = BaseRoot(tmp_path / "base.tar", BASE.digest, tmp_path / "roots", Silent())

    SdistBuilder(root, "python3", lambda _: tmp_path, tmp_path, Silent()).forget_lost(
        lambda sha256: sha256 == "a"
    )

    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["whole"]


def test_another_machine_is_refused_at_once() -> None:
    sdist = artifact("alpha-1.0.tar.gz", "a")
    machine = platform.machine()
    plan = make_plan(SPEC, snapshot(app=(sdist,)), Target("3.11"), BASE, templates="t")

    check_supported(plan, Target("3.11", arch=machine))
    with pytest.raises(UnsupportedError, match=r"alpha-1\.0\.tar\.gz has to be built from source, which"):
        check_supported(plan, Target("3.11", arch="x86_64" if machine == "aarch64" else "aarch64"))


def test_another_machine_without_a_python_to_compile_with_is_refused() -> None:
    plan = make_plan(SPEC, snapshot(app=()), Target("3.11"), BASE, templates="t")
    target = Target("3.99", arch="aarch64")

    with pytest.raises(UnsupportedError, match="modules for linux/arm64 cannot be compiled") as caught:
        foreign_python(plan, target)

    assert "set `compile = false` for the image" in caught.value.hint
