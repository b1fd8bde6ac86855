"""What tests of several packages share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.index_server import IndexServer
from tests.project import Project

# What lands is judged by examples that are the same each time; elsewhere hypothesis looks for new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# Their tests load images into the one engine that there is, and sweep it.
ENGINE = ("tests/imagegen/", "tests/test_newcomer.py")


# What takes longest begins first, so that no worker waits for it at the end.
LONGEST = "tests/mirror/test_killed.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


class Scheduling(LoadScopeScheduling):
    """Keeps together what shares costly fixtures when tests run side by side: a file, the engine."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return "engine" if path.startswith(ENGINE) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


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
