"""What a newcomer does: the README's commands, on a machine that has nothing or has all."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALWAYS_THERE = ("sh", "dirname", "readlink", "basename", "git", "env", "cat", "tail", "sleep", "seq")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout on a machine with little installed; `bin` is all that can be run."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "prepare", tmp_path / ".ci")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ALWAYS_THERE:
        (folder / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    (folder / "python3").symlink_to(os.path.realpath(sys.executable))
    return tmp_path


def command(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def prepare(folder: Path, purpose: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(folder / "bin"), "HOME": str(folder)}
    arguments = [str(folder / "bin" / "sh"), ".ci/prepare", purpose]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_another_user_is_told_the_exact_command(bare: Path) -> None:
    command(bare, "id", "echo 1000")
    ended = prepare(bare, "demo")
    assert ended.returncode == 1
    (line,) = [line.strip() for line in ended.stderr.splitlines() if "sudo apt-get" in line]
    assert line.startswith("sudo apt-get update && sudo apt-get install --no-install-recommends ")
    assert {"mmdebstrap", "bubblewrap"} <= set(line.split())
    assert "docker" not in line
    assert not (bare / ".venv").exists()


def test_root_is_told_what_is_installed_and_why_it_failed(bare: Path) -> None:
    command(bare, "id", "echo 0")
    command(bare, "apt-get", 'echo "apt-get $*"; exit 100')
    ended = prepare(bare, "test")
    assert ended.returncode == 1
    assert "installing with apt-get:" in ended.stderr
    assert "docker-registry" in ended.stderr
    assert "hint: apt-get failed" in ended.stderr


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns(".lockstock", "node_modules"))
    return folder


def demo(examples: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo where no Docker engine answers."""
    script = [sys.executable, str(examples / "demo.py"), *arguments]
    environment = {**os.environ, "DOCKER_HOST": "unix:///nothing.sock"}
    return subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.network
@pytest.mark.root
@pytest.mark.parametrize("example", ["service", "fullstack"])
def test_the_demo_does_the_main_job_without_an_engine_and_then_nothing(examples: Path, example: str) -> None:
    share_bases(examples / example / ".lockstock")
    first, again = demo(examples, example), demo(examples, example)
    assert (first.returncode, again.returncode) == (0, 0), (first.stderr + again.stderr)[-3000:]
    shown = first.stderr + first.stdout
    for word in ("stocked", "built", "verified", f"lockstock/{example}:", "sha256:", "next:", "-o tar:"):
        assert word in shown
    assert "docker run" not in shown
    assert "done in " in first.stderr
    assert "nothing changed in " in again.stderr, again.stderr[-3000:]
    assert "done in " not in again.stderr


def share_bases(mirror: Path) -> None:
    """Use the bases of the tests' cache: making one takes half a minute."""
    cache = Path(os.environ.get("LOCKSTOCK_TEST_CACHE", ROOT / ".cache")).resolve()
    mirror.mkdir()
    for name in ("bases", "roots"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        (mirror / name).symlink_to(cache / name)


def test_the_last_hints_fit_the_place() -> None:
    script = runpy.run_path(str(ROOT / "examples" / "demo.py"))
    built = {"name": "service", "reference": "lockstock/service:1", "place": "docker"}
    in_docker = script["hints"](built, Path("x/lockstock.toml"))
    in_a_layout = script["hints"]({**built, "place": "oci:x/.lockstock/oci"}, Path("x/lockstock.toml"))
    assert in_docker[0].startswith("docker run --rm -it --network none lockstock/service:1")
    assert [line.split()[1] for line in in_a_layout[:2]] == ["build", "push"]
    assert in_docker[-1] == in_a_layout[-1]


def test_an_example_that_is_not_there(examples: Path) -> None:
    ended = demo(examples, "nowhere")
    assert ended.returncode == 2
    assert "service" in ended.stderr


def test_the_example_is_locked_by_pip_tools_and_of_a_fair_size() -> None:
    text = (ROOT / "examples" / "service" / "requirements.txt").read_text()
    pins = [line for line in text.splitlines() if "==" in line]
    assert 25 <= len(pins) <= 60
    assert "pip-compile" in text
    assert text.count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize("name", ["mirror", "imagegen"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(name: str, shell: str) -> None:
    environment = {**os.environ, f"_{name.upper()}_COMPLETE": f"source_{shell}", "COMPLETE": ""}
    command = [str(Path(sys.executable).parent / name)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"{name}" in ended.stdout
    assert "complet" in ended.stdout.lower()
