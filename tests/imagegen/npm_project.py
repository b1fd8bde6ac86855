"""A project with a lock of npm, stocked from a registry that does not answer any more."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.npm_registry import NpmRegistry, Tarball
from tests.project import Project


def npm_config(image: str, base: str = "debian:bookworm") -> str:
    """Give a lockstock.toml with one image, which more lines may follow."""
    return f"""\
[mirror]
tools = []
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.web]
path = "web/package-lock.json"
[images.{image}]
base = "{base}"
locks = ["web"]
project = "."
"""


def stock_npm(project: Project, config: str, files: Sequence[Tarball], lock: str) -> None:
    """Write the project's files and stock these tarballs, on all of which it depends."""
    folder = project.folder / "web"
    folder.mkdir(exist_ok=True)
    manifest = {"name": "app", "version": "1.0.0", "dependencies": {t.name: t.version for t in files}}
    (folder / "package.json").write_text(json.dumps(manifest))
    (folder / "package-lock.json").write_text(lock)
    project.config.write_text(config)
    with NpmRegistry() as registry:
        registry.tarballs = [*files]
        project.environment = {"NPM_CONFIG_REGISTRY": registry.url}
        project.refreshed()
