"""A user's project in a folder: a lock-file, lockstock.toml, and the mirror it fills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirror import config as configuration
from mirror.layout import Layout
from tests.wheels import digest

CONFIG = """\
[mirror]
tools = []
port = {port}
{mirror}
[targets]
python = ["3.11"]
platforms = ["linux/amd64"]
glibc = "2.36"

[locks.app]
path = "requirements.txt"
"""


@dataclass
class Project:
    """The folder of a project and the environment that its commands run in."""

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "lockstock.toml"

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / ".lockstock")

    def configure(self, mirror: str = "", more: str = "") -> None:
        self.config.write_text(CONFIG.format(port=self.port, mirror=mirror) + more)

    def lock(self, *files: Path, changed: Mapping[str, str] | None = None) -> None:
        """Write requirements.txt that pins these wheels and sdists by their digests."""
        pins: dict[str, list[str]] = {}
        for file in files:
            name, version = file.name.removesuffix(".tar.gz").split("-")[:2]
            pins.setdefault(f"{name}=={version}", []).append((changed or {}).get(file.name) or digest(file))
        lines = (
            f"{pin} {' '.join(f'--hash=sha256:{d}' for d in found)}\n" for pin, found in sorted(pins.items())
        )
        (self.folder / "requirements.txt").write_text("".join(lines))

    def upstream(self, index: str) -> None:
        """Set the user's pip to this index and to nothing else."""
        self.environment = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_RETRIES": "2"}

    def load(self) -> configuration.Config:
        return configuration.load(self.config)

    def mirror(self, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run the `mirror` command to its end."""
        return subprocess.run(self.command(*arguments, prefix=prefix), **self.options(), check=False)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the `mirror` command."""
        options = {key: value for key, value in self.options().items() if key != "capture_output"}
        return subprocess.Popen(
            self.command(*arguments), **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def refreshed(self, *arguments: str) -> dict[str, Any]:
        """Refresh, which must go well, and give the report."""
        ended = self.mirror("refresh", "--json", *arguments)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    def command(self, *arguments: str, prefix: Sequence[str] = ()) -> list[str]:
        return [*prefix, sys.executable, "-m", "mirror", *arguments]

    def options(self) -> dict[str, Any]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
        return {
            "cwd": self.folder,
            "env": {**clean, **self.environment},
            "capture_output": True,
            "text": True,
        }
