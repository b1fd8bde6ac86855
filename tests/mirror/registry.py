"""A real mirror folder with a real devpi, for tests."""

from __future__ import annotations

import os
import re
import socket
import sys
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE, STDOUT, CompletedProcess, run

import httpx

from mirror.publish import devpi, devpi_server, devpi_state
from mirror.snapshot import Snapshot, Stocked
from mirror.store import Store
from tests.wheels import digest


@dataclass
class Registry:
    """A mirror folder: what is put into the store and published from there."""

    root: Path
    port: int = field(default_factory=lambda: free_port())

    @property
    def folder(self) -> Path:
        return self.root / "devpi"

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def index_url(self) -> str:
        return devpi_server.index_url(self.port)

    def stock(self, path: Path, name: str, version: str, requires_python: str | None = None) -> Stocked:
        """Put a distribution into the store."""
        held = digest(path)
        target = self.store.path(held)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(path.read_bytes())
        return Stocked(
            ecosystem="pypi", name=name, version=version, filename=path.name, sha256=held,
            size=path.stat().st_size, url=f"https://files.example/{path.name}",
            requires_python=requires_python,
        )  # fmt: skip

    def publish(self, name: str, *stocked: Stocked) -> devpi.Published:
        return devpi.publish(self.folder, name, Snapshot.of([], stocked, []), self.store)

    def start(self) -> devpi_server.Server:
        return devpi_server.start(self.folder, self.port)

    def projects(self) -> list[str]:
        """Give the projects that clients see now."""
        page = httpx.get(self.index_url, trust_env=False)
        assert page.status_code == 200, page
        return sorted(re.findall(r'href="([^"/]+)/?"', page.text))

    def files(self, project: str) -> dict[str, str]:
        """Download all files of a project as a client does; give their digests by name."""
        page = httpx.get(f"{self.index_url}{project}/", trust_env=False)
        found = {}
        for link in re.findall(r'href="([^"#]+)#', page.text):
            answer = httpx.get(page.url.join(link), trust_env=False)
            assert answer.status_code == 200, link
            found[link.rpartition("/")[2]] = sha256(answer.content).hexdigest()
        return found

    def leftovers(self) -> list[str]:
        """Give what a killed writer could have left behind, but for what the running server just writes."""
        names = {path.name for path in self.folder.rglob("*")} - {".event_serial-tmp"}
        return sorted(name for name in names if name.endswith(("-tmp", ".tmp", ".new", "-journal")))

    def indexes(self) -> list[str]:
        """Give the names of all of our indexes, as a client is told."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.port}/{devpi_state.USER}",
            headers={"Accept": "application/json"}, trust_env=False,
        )  # fmt: skip
        return sorted(answer.json()["result"]["indexes"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def requirement(stocked: Stocked) -> str:
    return f"{stocked.name}=={stocked.version} --hash=sha256:{stocked.sha256}\n"


def uv_install(registry: Registry, target: Path, *stocked: Stocked) -> CompletedProcess[str]:
    """Install by uv from the registry alone, with hashes required."""
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "install", "--no-config", "--no-cache", f"--python={sys.executable}"]
    return _install(command, registry, target, stocked)


def pip_install(registry: Registry, target: Path, *stocked: Stocked) -> CompletedProcess[str]:
    """Install by pip from the registry alone, with hashes required."""
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "--retries=0"]
    return _install([*command, "--disable-pip-version-check"], registry, target, stocked)


def _install(
    command: list[str], registry: Registry, target: Path, stocked: tuple[Stocked, ...]
) -> CompletedProcess[str]:
    target.mkdir(parents=True)
    requirements = target.with_suffix(".txt")
    requirements.write_text("".join(map(requirement, stocked)))
    options = [f"--index-url={registry.index_url}", "--require-hashes", f"--target={target}", "-r"]
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PIP_", "UV_")) and not key.lower().endswith("_proxy")
    }
    return run(
        [*command, *options, str(requirements)], env=environment, stdout=PIPE, stderr=STDOUT, text=True,
        timeout=120, check=False,
    )  # fmt: skip
