"""Runs a command in an image whose only way out is a gate, and tells what it reached."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from imagegen.build import LATEST
from imagegen.engines.docker import DockerEngine
from imagegen.engines.sandbox import Confined, Sandbox
from imagegen.errors import NotBuiltError
from imagegen.plan import REPOSITORY, UID, WORKSPACE
from imagegen.project import project_entries
from imagegen.spec import ImageSpec
from mirror.config import Config
from mirror.gate.audit import verify
from mirror.gate.policy import Policy
from mirror.gate.reports import Touched, touched
from mirror.gate.running import Door, home_of, open_gate

PORT = 3128
_INSIDE = "/run/lockstock"
_GATE = f"http://127.0.0.1:{PORT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended: the command's exit code, what it touched, and the signed note to keep elsewhere."""

    code: int
    report: Touched
    note: str


def run(
    config: Config, spec: ImageSpec, engine: DockerEngine, policy: Policy, task: str, command: Sequence[str]
) -> Ended:
    """Run a command with a gate of its own. Raises NotBuiltError, PolicyError, LogError and BuildError."""
    reference = f"{REPOSITORY}/{spec.name}:{LATEST}"
    image = engine.find(reference)
    if image is None:
        raise NotBuiltError(
            "this image is not in the engine", where=reference, hint=f"run `imagegen build {spec.name}`"
        )
    # A socket's path may have 108 bytes, so it does not lie in the mirror's folder.
    with tempfile.TemporaryDirectory(prefix="lockstock-") as temporary:
        folder = Path(temporary)
        confined = _confined(spec, image.id, policy, owner_of(config, task), command, folder)
        door = Door(task=task, socket=folder / "gate.sock")
        first, code, note = asyncio.run(_guarded(config, spec, engine, policy, confined, door))
    records: list[dict[str, Any]] = []
    signer = home_of(config).signer()
    verify(home_of(config).log(task), signer.named(f"{signer.name}/{task}").verifier, note, records.append)
    return Ended(code=code, report=touched(task, records[first:]), note=note)


def environment(policy: Policy) -> dict[str, str]:
    """Give what makes pip, uv, npm, curl and git in the sandbox go by the gate."""
    variables = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _GATE)
    variables |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost,::1")
    if policy.mirror:
        variables |= {"PIP_INDEX_URL": f"{_GATE}/simple/", "UV_DEFAULT_INDEX": f"{_GATE}/simple/"}
        # What the image sets for a sandbox without any way out.
        variables |= {"NPM_CONFIG_REGISTRY": f"{_GATE}/npm/", "NPM_CONFIG_OFFLINE": "false"}
        variables |= {"PIP_NO_INDEX": "0", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return variables


def owner_of(config: Config, task: str) -> str:
    """Name a task of this mirror among those of all mirrors of this engine."""
    place = hashlib.sha256(str(config.root.resolve()).encode()).hexdigest()[:12]
    return f"{place}-{task}"


def _confined(
    spec: ImageSpec, image: str, policy: Policy, owner: str, command: Sequence[str], folder: Path
) -> Confined:
    forwarder = folder / "forwarder.py"
    with resources.as_file(resources.files("templates") / "gate" / "forwarder.py") as source:
        shutil.copyfile(source, forwarder)
    forwarder.chmod(0o444)
    start = ("python3", "-I", f"{_INSIDE}/forwarder.py", f"{_INSIDE}/gate.sock", str(PORT), "--")
    return Confined(
        image=image,
        owner=owner,
        uid=UID,
        command=(*start, *command),
        environment=environment(policy),
        mounts={f"{_INSIDE}/gate.sock": folder / "gate.sock", f"{_INSIDE}/forwarder.py": forwarder},
        folders=(WORKSPACE, f"/home/{spec.user}"),
    )


async def _guarded(
    config: Config, spec: ImageSpec, engine: DockerEngine, policy: Policy, confined: Confined, door: Door
) -> tuple[int, int, str]:
    """Give the number of records before this run, the exit code, and the last note."""
    async with open_gate(config, policy, door) as gate:
        first = gate.core.size - 1
        with Sandbox(engine, confined) as sandbox:
            if spec.project:
                sandbox.put(project_entries(spec.project, config.root), WORKSPACE)
            code = await asyncio.to_thread(sandbox.run)
    if gate.core.failure:
        raise gate.core.failure
    return first, code, gate.note
