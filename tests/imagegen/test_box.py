"""Verify without a Docker engine: the same checks in the image's unpacked layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.imagegen.stocked import StockedProject, path_without
from tests.wheels import make_wheel

pytestmark = [pytest.mark.network, pytest.mark.root]
NAME = "pytest-box"
NO_ENGINE = {"DOCKER_HOST": "unix:///nothing.sock"}
IMAGE = f"""
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
project = "code"
env = {{ GREETING = "hello" }}
"""
CHECKS = [
    "test $(id -u) = 1000 && test $PWD = /workspace && test $HOME = /home/sandbox",
    "test $(command -v python) = /opt/lockstock/venv/bin/python && alpha && test $GREETING = hello",
    "test -f hello.txt && touch made ~/made",
    "test -f made",
]


@pytest.fixture
def project(tmp_path: Path, cache: Path) -> StockedProject:
    made = StockedProject(tmp_path / "project")
    files = {"alpha.py": "def main():\n    print('alpha')\n"}
    made.stock({"app": [make_wheel(tmp_path, "alpha", "1.0", files=files, scripts={"alpha": "alpha:main"})]})
    made.share_bases(cache / "bases")
    (made.folder / "code").mkdir()
    (made.folder / "code" / "hello.txt").write_text("hello")
    return made


def verified(project: StockedProject, *checks: str) -> tuple[int, str]:
    project.configure(f"{IMAGE}checks = {json.dumps(checks)}\n")
    built = project.imagegen("build", NAME, environment=NO_ENGINE)
    assert built.returncode == 0, built.stderr
    ended = project.imagegen("verify", NAME, environment=NO_ENGINE)
    return ended.returncode, ended.stderr


def test_everything_holds(project: StockedProject) -> None:
    code, said = verified(project, *CHECKS)

    report = json.loads((project.layout.root / "reports" / f"{NAME}.json").read_text())
    assert code == 0, said
    assert "no Docker engine answers; bubblewrap runs the checks" in said
    assert (report["engine"], report["ok"], len(report["checks"])) == ("bubblewrap", True, 4 + len(CHECKS))
    assert "tcp 169.254.169.254:80: Network is unreachable" in report["checks"][0]["output"]
    assert list((project.layout.root / "boxes").iterdir()) == []


def test_what_does_not_hold_is_shown_and_nothing_outside_is_touched(project: StockedProject) -> None:
    witness = project.folder / "witness"
    witness.write_text("here")

    code, said = verified(
        project, f"! test -e {witness}", "echo what went wrong; exit 3", "ps 1 || kill -9 -1"
    )

    assert code == 43
    assert "│ what went wrong" in said
    assert witness.read_text() == "here"


def test_an_image_that_was_not_built(project: StockedProject) -> None:
    project.configure(IMAGE)

    ended = project.imagegen("verify", NAME, environment=NO_ENGINE)

    assert ended.returncode == 46
    assert f"imagegen build {NAME}" in ended.stderr


def test_without_bubblewrap(project: StockedProject, tmp_path: Path) -> None:
    """With everything else on PATH."""
    project.configure(IMAGE)
    environment = {**NO_ENGINE, "PATH": path_without("bwrap", tmp_path / "bin")}
    assert shutil.which("bwrap")
    built = project.imagegen("build", NAME, environment=environment)  # root may chroot to compile
    assert built.returncode == 0, built.stderr

    ended = project.imagegen("verify", NAME, environment=environment)

    assert ended.returncode == 40
    assert "bubblewrap is not installed" in ended.stderr
