"""BuildKit, which the engine has and a `docker` command speaks with: the SDK does not.

The command sees neither the user's credentials nor their proxies, and asks for the image alone,
without attestations.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from docker import DockerClient

from imagegen.archive import Entry, tar_stream
from imagegen.engines.docker import faults
from imagegen.engines.plain import PlainProgress
from imagegen.live import Progress
from imagegen.oci import EPOCH

_PATIENCE = 20
# The first API of an engine with a BuildKit that is no experiment (18.09). Engines say what they build
# with since 23.0; an older one says it only where its configuration does.
_API = (1, 39)
# Clients speak with BuildKit themselves from 19.03 on, as far as it is needed here, and since 23.0 by buildx.
_FIRST, _BUILDX = (19, 3), (23, 0)
_OWN = ("DOCKER_", "BUILDX_", "BUILDKIT_", "SOURCE_DATE_EPOCH")
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildKit:
    """The BuildKit of the engine that the SDK is connected to, through a program."""

    name: ClassVar[str] = "buildkit"
    program: str

    def __str__(self) -> str:
        return f"BuildKit, through {self.program}"

    def build(self, entries: Iterable[Entry], reference: str, progress: Progress) -> None:
        """Build a context without a network; the image has its name when it is whole. Raises BuildError.

        An image that the engine holds under the name after FROM is taken as it is, and no registry asked.
        """
        words = [self.program, "build", "--network", "none", "--progress", "plain", "--tag", reference]
        words += ["--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "-"]
        told = PlainProgress(progress)
        with _environment() as environment:
            code = _run(words, environment, tar_stream(entries), told.take)
        if code:
            raise told.failure(reference, code)


def _run(
    words: Sequence[str],
    environment: Mapping[str, str],
    chunks: Iterable[bytes],
    take: Callable[[str], None],
) -> int:
    """Run a command that reads `chunks`, hand on each line of its stderr, and give its exit code."""
    with (
        subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,  # buildx is a process of its own, which is to end with the command
        ) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        assert process.stderr is not None  # noqa: S101 - for the type checker
        try:
            feeding = pool.submit(_feed, process, chunks)
            while line := process.stderr.readline(_LONGEST):
                take(line.decode(errors="replace").rstrip())
            feeding.result()
        except BaseException:
            _kill(process)
            raise
    return process.returncode


def _feed(process: subprocess.Popen[bytes], chunks: Iterable[bytes]) -> None:
    """Write to a command's stdin. One that reads no more has ended, and said why."""
    assert process.stdin is not None  # noqa: S101 - for the type checker
    with suppress(BrokenPipeError), process.stdin as stdin:
        try:
            for chunk in chunks:
                stdin.write(chunk)
        except BrokenPipeError:
            raise
        except BaseException:
            _kill(process)  # before it sees an end, and takes what it has for the whole context
            raise


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def offers(client: DockerClient) -> bool:
    """Say whether an engine builds with BuildKit where it is asked to. Raises EngineUnavailableError."""
    with faults("the engine"):
        headers = client.api.get(f"{client.api.base_url}/_ping", timeout=_PATIENCE).headers
    said = headers.get("Builder-Version")
    if said is not None:
        return bool(said == "2")
    is_docker = headers.get("Server", "").startswith("Docker/") and headers.get("Ostype") == "linux"
    return is_docker and _version(headers.get("Api-Version", "")) >= _API


def find_program() -> str | None:
    """Find the first `docker` on PATH that builds with BuildKit in the engine that the SDK speaks with."""
    with _environment() as environment:
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            program = shutil.which("docker", path=folder)
            if program and _speaks(program, environment):
                return program
    return None


def _speaks(program: str, environment: Mapping[str, str]) -> bool:
    """Say whether a client reaches the engine, and has what BuildKit is spoken with, itself or in buildx."""
    version = _version(_said([program, "version", "--format", "{{.Client.Version}}"], environment))
    if version < _FIRST:
        return False
    return version < _BUILDX or bool(_said([program, "buildx", "version"], environment))


def _said(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Give what a command prints, nothing where it fails."""
    try:
        ended = subprocess.run(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if ended.returncode else ended.stdout.decode(errors="replace")


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


@contextmanager
def _environment() -> Iterator[Mapping[str, str]]:
    """Give a client's environment: the SDK's engine, and of the user's configuration only the plugins."""
    home = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    with tempfile.TemporaryDirectory() as folder:
        plugins = {"cliPluginsExtraDirs": [str(home / "cli-plugins"), *_plugin_folders(home)]}
        Path(folder, "config.json").write_text(json.dumps(plugins))
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OWN)},
            **_tls(),
            # Where the SDK looks, whatever context is chosen.
            "DOCKER_HOST": os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock",
            "DOCKER_CONFIG": folder,
            "DOCKER_BUILDKIT": "1",
            "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        }


def _tls() -> dict[str, str]:
    """Say how the SDK secures its connection, in a client's words."""
    verify, folder = os.environ.get("DOCKER_TLS_VERIFY", ""), os.environ.get("DOCKER_CERT_PATH", "")
    if not (verify or folder):
        return {}
    secured = {"DOCKER_TLS": "1", "DOCKER_CERT_PATH": folder or str(Path.home() / ".docker")}
    return {**secured, "DOCKER_TLS_VERIFY": verify} if verify else secured


def _plugin_folders(home: Path) -> list[str]:
    """Give the folders of plugins that the user's configuration names."""
    try:
        folders = json.loads((home / "config.json").read_bytes())["cliPluginsExtraDirs"]
        return [str(folder) for folder in folders]
    except (OSError, ValueError, KeyError, TypeError):
        return []
