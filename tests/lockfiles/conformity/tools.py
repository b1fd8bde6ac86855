"""The real tools, each in an environment of its own, and what they say a target installs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from urllib.parse import unquote

from packaging.utils import canonicalize_name

from lockfiles.target import Target
from tests.wheels import make_wheel

UV = Path(sys.executable).with_name("uv")
REQUIREMENTS = {
    "poetry": ("poetry", "poetry-plugin-export"),
    "poetry-1.8": ("poetry==1.8.5", "poetry-plugin-export==1.8.0"),
    "pdm": ("pdm[locked]",),
    "pipenv": ("pipenv",),
    "pip-tools": ("pip-tools",),
    "pip": ("pip",),
}
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?(?:==([^\s;]+)| @ (\S+))")
Pins = dict[str, str]
Pin = tuple[str, str]


class Tools:
    """Runs the tools with the plain default index, whatever the machine's own settings are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_FIND", "UV_", "VIRTUAL_ENV"))}
        self._environment = kept | {
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "UV_LINK_MODE": "copy",
            "UV_PYTHON": sys.executable,
            "UV_PYTHON_DOWNLOADS": "never",  # it would look for one for each target
            "POETRY_VIRTUALENVS_CREATE": "false",
            "POETRY_CACHE_DIR": str(folder / "poetry"),
            "PDM_CHECK_UPDATE": "0",
            "PDM_CACHE_DIR": str(folder / "pdm-cache"),
            "PDM_LOG_DIR": str(folder / "pdm-log"),
            "PIPENV_YES": "1",
            "PIPENV_NOSPIN": "1",
            "PIPENV_IGNORE_VIRTUALENVS": "1",
            "WORKON_HOME": str(folder / "pipenv"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        self._made: set[str] = set()
        self._making = Lock()
        self._applied: dict[tuple[str, Target], Pins] = {}
        self._files: dict[Target, dict[Pin, str]] = {}

    def run(self, tool: str, *arguments: str, cwd: Path, text: str | None = None) -> str:
        """Run a tool and give what it prints. The first run of each makes its environment."""
        program = str(UV) if tool == "uv" else self._program(tool)
        return self._run([program, *arguments], cwd, text)

    def applied(self, requirements: str, target: Target, cwd: Path) -> Pins:
        """Let uv say which of the pinned requirements a target takes, by their markers."""
        lines = "\n".join(sorted(line for line in requirements.splitlines() if _PIN.match(line)))
        if (lines, target) not in self._applied:
            self._applied[lines, target] = self._ask_uv(lines, target, cwd)
        return self._applied[lines, target]

    def _ask_uv(self, requirements: str, target: Target, cwd: Path) -> Pins:
        """Let uv decide on markers alone: whatever is pinned is there, as an empty wheel."""
        for match in filter(None, map(_PIN.match, requirements.splitlines())):
            if match[2]:
                make_wheel(cwd / "empty", match[1], match[2], files={})
        arguments = [
            str(UV), "pip", "compile", "-q", "--no-deps", "--no-header", "--no-annotate",
            "--no-index", "--find-links", "empty",
            "--python-version", target.python, "--python-platform", uv_platform(target), "-",
        ]  # fmt: skip
        return pins(self._run(arguments, cwd, requirements))

    def files(self, wanted: Iterable[tuple[str, str]], target: Target, cwd: Path) -> Mapping[Pin, str]:
        """Let pip say which wheel it takes on a target, whose platform tags it is told."""
        known = self._files.setdefault(target, {})
        missing = sorted(set(wanted) - known.keys())
        while missing:
            batch = dict(missing)  # one version of each name at a time
            known |= self._ask_pip(batch, target, cwd)
            missing = [pin for pin in missing if pin not in batch.items()]
        return known

    def _ask_pip(self, batch: Pins, target: Target, cwd: Path) -> Mapping[Pin, str]:
        platforms = dict.fromkeys(tag.platform for tag in target.tags if tag.platform != "any")
        (cwd / "wanted.txt").write_text("".join(f"{name}=={version}\n" for name, version in batch.items()))
        out = self.run(
            "pip", "install", "--dry-run", "--quiet", "--report", "-", "--ignore-installed", "--no-deps",
            "--only-binary", ":all:", "--implementation", "cp", "--python-version", target.python,
            *(f"--platform={platform}" for platform in platforms), "--target", str(cwd / "none"),
            "-r", "wanted.txt", cwd=cwd,
        )  # fmt: skip
        return reported(out)

    def _program(self, tool: str) -> str:
        environment = self._folder / "tools" / tool
        with self._making:
            if tool not in self._made:
                self._make(environment, REQUIREMENTS[tool])
                self._made.add(tool)
        return str(environment / "bin" / {"pip-tools": "pip-compile", "poetry-1.8": "poetry"}.get(tool, tool))

    def _make(self, environment: Path, requirements: Iterable[str]) -> None:
        self._run([str(UV), "venv", "-q", "--seed", str(environment)], self._folder)
        python = ["--python", str(environment / "bin/python")]
        self._run([str(UV), "pip", "install", "-q", "--upgrade", *python, *requirements], self._folder)

    def _run(self, command: list[str], cwd: Path, text: str | None = None) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self._environment,
            input=text or "",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def uv_platform(target: Target) -> str:
    """Name a target as `uv --python-platform` does."""
    return f"{target.arch}-unknown-linux-{'musl' if target.libc == 'musl' else 'gnu'}"


def pins(text: str) -> Pins:
    """Read names and versions, or URLs, from requirements."""
    matches = (_PIN.match(line) for line in text.splitlines())
    return {canonicalize_name(m[1]): m[2] or m[3] for m in matches if m}


def reported(report: str) -> dict[Pin, str]:
    """Read name, version and file of an installation report of pip."""
    items: list[Mapping[str, Mapping[str, str]]] = json.loads(report)["install"]
    return {
        (canonicalize_name(i["metadata"]["name"]), i["metadata"]["version"]): unquote(
            i["download_info"]["url"].rsplit("/")[-1]
        )
        for i in items
    }
