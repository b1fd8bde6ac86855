"""What of an image with npm's packages travels after one of them has changed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.imagegen.base_layout import BaseLayout, base_files, tar
from tests.imagegen.npm_project import npm_config, stock_npm
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_base_images import HERE
from tests.npm_registry import Tarball, make_tarball, package_lock
from tests.project import Project

NAME = "pytest-npm-layers"
CONFIG = npm_config(NAME, "oci:base:1") + "compile = false\n"
NAMES = ("@scope/lib", "alpha", "beta", "gamma", "delta", "tool")


def tarballs(tool: str) -> list[Tarball]:
    return [make_tarball(name, tool if name == "tool" else "1.0.0") for name in NAMES]


def image(project: Project, files: list[Tarball]) -> str:
    """Stock these and give the image that was made of them."""
    stock_npm(project, CONFIG, files, package_lock(files))
    built = StockedProject(project.folder).json("build", NAME, "-o", "oci:out")
    return str(built["reference"]).removeprefix("lockstock/")


@pytest.fixture
def project(project: Project) -> Project:
    """One whose base has what an image with npm asks for, but no programs that run."""
    programs: dict[str, bytes | None] = {"usr/bin/node": b"", "usr/bin/npm": b""}
    base = BaseLayout(project.folder / "base")
    base.name("1", base.image([tar({**base_files(project.folder / "made", HERE), **programs})], HERE))
    return project


def test_a_bump_changes_its_layer_and_the_index(project: Project) -> None:
    before, after = image(project, tarballs("1.0.0")), image(project, tarballs("1.1.0"))

    found: dict[str, Any] = StockedProject(project.folder).json("diff", before, after)

    shown = [{layer["comment"] for layer in found[side]} for side in ("removed", "added")]
    assert shown == [{"tool 1.0.0", "npm's index"}, {"tool 1.1.0", "npm's index"}]
    assert found["changes"] == [{"package": "npm:tool", "before": ["1.0.0"], "after": ["1.1.0"]}]
    assert found["fetch"] < 20_000
