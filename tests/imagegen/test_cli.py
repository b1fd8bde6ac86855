from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagegen.commands import app
from tests.imagegen.stocked import StockedProject
from tests.wheels import make_wheel

IMAGE = '\n[images.dev]\nbase = "debian:bookworm"\nlocks = ["app"]\n'


@pytest.fixture
def project(tmp_path: Path) -> StockedProject:
    project = StockedProject(tmp_path / "project")
    project.stock({"app": [make_wheel(tmp_path, "alpha", "1.0")]})
    project.configure(IMAGE)
    return project


def test_help_names_every_command() -> None:
    said = CliRunner().invoke(app, ["--help"]).output

    for command in ("build", "render", "verify", "list", "--version", "--install-completion"):
        assert command in said


@pytest.mark.parametrize("command", ["build", "render", "verify", "list"])
def test_each_command_has_help(command: str) -> None:
    ended = CliRunner().invoke(app, [command, "--help"])

    assert ended.exit_code == 0
    assert "--config" in ended.output


def test_help_shows_brackets_as_they_are() -> None:
    assert "[images.NAME]" in CliRunner().invoke(app, ["build", "--help"]).output


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.startswith("lockstock ")


def test_list(project: StockedProject) -> None:
    assert project.json("list") == [
        {"base": "debian:bookworm", "locks": ["app"], "name": "dev", "verified": None}
    ]
    assert "not yet" in project.imagegen("list").stdout


def test_list_shows_the_last_report(project: StockedProject) -> None:
    reports = project.layout.root / "reports"
    reports.mkdir()
    (reports / "dev.json").write_text(json.dumps({"ok": False}))

    assert "✗" in project.imagegen("list").stdout


@pytest.mark.parametrize("report", [b"", b"[]", b"{}", b"\xff"])
def test_list_passes_over_a_damaged_report(project: StockedProject, report: bytes) -> None:
    (project.layout.root / "reports").mkdir()
    (project.layout.root / "reports" / "dev.json").write_bytes(report)

    assert project.json("list")[0]["verified"] is None


def test_a_fault_of_the_configuration_ends_with_its_code(project: StockedProject) -> None:
    project.configure(IMAGE + 'user = "root"\n')

    for command in (["list"], ["build", "dev"], ["verify", "dev"], ["render", "dev", "-o", "out"]):
        ended = project.imagegen(*command)

        assert ended.returncode == 3
        assert "lockstock.toml:13: images.dev.user: 'root' cannot be the user" in ended.stderr
        assert "hint: " in ended.stderr
        assert ended.stdout == ""


def test_an_unknown_image(project: StockedProject) -> None:
    ended = project.imagegen("build", "prod")

    assert ended.returncode == 3
    assert "there is no image 'prod'" in ended.stderr


def test_a_lock_that_changed_since_is_noted(project: StockedProject) -> None:
    (project.folder / "requirements.txt").write_text("")

    nowhere = {"DOCKER_HOST": "unix:///nothing"}
    ended = project.imagegen("build", "dev", "--engine", "docker", environment=nowhere)

    assert "requirements.txt has changed since the last `mirror refresh`" in ended.stderr
    assert ended.returncode == 40
