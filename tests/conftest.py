"""What tests of several packages share."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index_server import IndexServer
from tests.project import Project


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together, when tests run side by side, what shares costly fixtures: a file, the engine.

    All of imagegen's count as the engine's: an image that is built is loaded into it if it answers.
    """
    for item in items:
        engine = item.get_closest_marker("docker") or item.path.parent.name == "imagegen"
        group = "docker" if engine else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    folder.mkdir()
    return folder


@pytest.fixture
def index(wheels: Path) -> Iterator[IndexServer]:
    with IndexServer(wheels) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, index: IndexServer, free_port: int) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    made = Project(folder, free_port)
    made.configure()
    made.upstream(index.index)
    return made
