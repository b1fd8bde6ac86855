"""A lock with the URLs of a mirror: nothing else changes, and uv and pip install from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lockfiles.errors import LockError
from lockfiles.formats import parse
from lockfiles.model import Artifact
from lockfiles.rewrite import rewrite
from tests.index_server import IndexServer
from tests.lockfiles.test_scenarios import LOCKS
from tests.wheels import make_wheel

UV = Path(sys.executable).with_name("uv")
PROJECT = '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["demo"]\n'


def mirrored(artifact: Artifact) -> str:
    return f"https://mirror.example/files/{artifact.filename}"


@pytest.mark.parametrize("case", ["uv", "uv-conflicts", "uv-sources", "pylock-uv", "pylock-pip"])
def test_only_urls_change(case: str) -> None:
    file = next(f for f in (LOCKS / case).iterdir() if f.name in ("uv.lock", "pylock.toml"))
    text = file.read_text()
    new = rewrite(file.name, text, mirrored)
    back = new.replace("https://mirror.example/files/", "https://files.example/")
    assert new != text
    assert back == text
    urls = {a.url for package in parse(file.name, new).packages for a in package.artifacts}
    assert all(url and url.startswith("https://mirror.example/files/") for url in urls)


def test_ends_of_lines_stay_as_they_are() -> None:
    text = (LOCKS / "uv" / "uv.lock").read_text().replace("\n", "\r\n")
    new = rewrite("uv.lock", text, mirrored)
    assert new.replace("https://mirror.example/files/", "https://files.example/") == text != new


def test_some_urls_may_stay() -> None:
    text = (LOCKS / "uv" / "uv.lock").read_text()
    assert rewrite("uv.lock", text, lambda artifact: None) == text


def test_formats_without_urls_need_none() -> None:
    with pytest.raises(LockError, match=r"poetry.lock carries no file URLs"):
        rewrite("poetry.lock", (LOCKS / "poetry-2.1" / "poetry.lock").read_text(), mirrored)


def test_a_url_cannot_end_its_string() -> None:
    with pytest.raises(LockError, match="characters that no URL has"):
        rewrite("uv.lock", (LOCKS / "uv" / "uv.lock").read_text(), lambda artifact: 'x" y = "z')


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A project that was locked against an index that is gone."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    make_wheel(tmp_path / "files", "demo", "1.0")
    with IndexServer(tmp_path / "files") as old:
        uv(folder, "lock", "--default-index", old.index)
    return folder


def test_uv_installs_from_the_mirror(locked: Path, tmp_path: Path) -> None:
    with IndexServer(tmp_path / "files") as mirror:
        text = (locked / "uv.lock").read_text()
        assert "demo" in text
        new = rewrite("uv.lock", text, lambda a: f"{mirror.url}/files/{a.filename}")
        (locked / "uv.lock").write_text(new)
        uv(locked, "sync", "--frozen")
        assert mirror.fetched() == ["demo-1.0-py3-none-any.whl"]


def test_pip_installs_from_the_mirror(locked: Path, tmp_path: Path) -> None:
    uv(locked, "export", "--frozen", "--no-emit-project", "-o", "pylock.toml")
    with IndexServer(tmp_path / "files") as mirror:
        file = locked / "pylock.toml"
        file.write_text(
            rewrite("pylock.toml", file.read_text(), lambda a: f"{mirror.url}/files/{a.filename}")
        )
        target = str(tmp_path / "installed")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "-r",
            str(file),
            "--target",
            target,
            "--no-cache-dir",
        ]
        subprocess.run(command, check=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    assert (tmp_path / "installed" / "demo.py").exists()


def uv(folder: Path, *arguments: str) -> None:
    """Run uv with a cache of its own and no other index."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "VIRTUAL_ENV", "PIP_"))}
    environment |= {"UV_CACHE_DIR": str(folder / "cache"), "UV_NO_CONFIG": "1", "UV_PYTHON": sys.executable}
    subprocess.run([UV, *arguments, "-q"], cwd=folder, env=environment, check=True)
