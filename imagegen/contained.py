"""Runs a command in an image whose only way out is a gate, and tells what it reached."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from imagegen.build import LATEST
from imagegen.engines.docker import DockerEngine
from imagegen.engines.sandbox import Confined, Sandbox
from imagegen.engines.watch import Watch, Watched
from imagegen.errors import BuildError, NotBuiltError
from imagegen.plan import BASE_PYTHON, REPOSITORY, UID, WORKSPACE
from imagegen.project import project_entries
from imagegen.spec import ImageSpec
from mirror.config import Config
from mirror.console import say
from mirror.gate.audit import verify
from mirror.gate.core import Denied
from mirror.gate.policy import Policy
from mirror.gate.reports import Touched, touched
from mirror.gate.running import Door, home_of, open_gate
from mirror.gate.server import Gate

PORT = 3128
_WATCH_SECONDS = 60
_INSIDE = "/run/lockstock"
_GATE = f"http://127.0.0.1:{PORT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended: the command's exit code, what it touched, and the signed note to keep elsewhere."""

    code: int
    report: Touched
    note: str


def run(
    config: Config,
    spec: ImageSpec,
    engine: DockerEngine,
    policy: Policy,
    task: str,
    command: Sequence[str],
    post: str | None = None,
) -> Ended:
    """Run a command with a gate of its own; `post` is a command that is given each signed checkpoint.

    Raises NotBuiltError, PolicyError, LogError and BuildError.
    """
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
        door = Door(
            task=task,
            socket=folder / "gate.sock",
            watch=folder / "watch.sock",
            filter=folder / "filter.sock",
        )
        first, code, note = asyncio.run(_guarded(config, spec, engine, policy, confined, door, post))
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
        # Locks that name the registry they were made with are installed from the mirror all the same.
        variables |= {"NPM_CONFIG_REPLACE_REGISTRY_HOST": "always"}
        variables |= {"PIP_NO_INDEX": "0", "UV_NO_CONFIG": "1", "UV_PYTHON_DOWNLOADS": "never"}
    return variables


def owner_of(config: Config, task: str) -> str:
    """Name a task of this mirror among those of all mirrors of this engine."""
    place = hashlib.sha256(str(config.root.resolve()).encode()).hexdigest()[:12]
    return f"{place}-{task}"


def _confined(
    spec: ImageSpec, image: str, policy: Policy, owner: str, command: Sequence[str], folder: Path
) -> Confined:
    sockets = {f"{_INSIDE}/{name}.sock": folder / f"{name}.sock" for name in ("gate", "filter")}
    programs = {f"{_INSIDE}/{name}": _program(name, folder) for name in ("filter.py", "forwarder.py")}
    confine = (*BASE_PYTHON, "-I", "-S", f"{_INSIDE}/filter.py", f"{_INSIDE}/filter.sock")
    forward = (*BASE_PYTHON, "-I", "-S", f"{_INSIDE}/forwarder.py", f"{_INSIDE}/gate.sock", str(PORT), "--")
    return Confined(
        image=image,
        owner=owner,
        uid=UID,
        command=(*confine, *forward, *command),
        environment=environment(policy),
        mounts=sockets | programs,
        folders=(WORKSPACE, f"/home/{spec.user}"),
    )


async def _guarded(
    config: Config,
    spec: ImageSpec,
    engine: DockerEngine,
    policy: Policy,
    confined: Confined,
    door: Door,
    post: str | None,
) -> tuple[int, int, str]:
    """Give the number of records before this run, the exit code, and the last note."""
    async with open_gate(config, policy, door, post) as gate:
        first = gate.core.size - 1
        async with _watched(gate, engine, confined, door) as inside:
            with Sandbox(engine, inside) as sandbox:
                if spec.project:
                    sandbox.put(project_entries(spec.project, config.root), WORKSPACE)
                code = await asyncio.to_thread(sandbox.run)
    if not gate.filter.on:
        say(f"note: raw sockets fail, but are not recorded here: {gate.filter.problem}")
    if gate.core.failure:
        raise gate.core.failure
    return first, code, gate.note


@asynccontextmanager
async def _watched(
    gate: Gate, engine: DockerEngine, confined: Confined, door: Door
) -> AsyncIterator[Confined]:
    """Put the command in a network where what goes past the gate is written down.

    Where the engine has no /dev/net/tun it has no route at all: what it tries fails as well, and the
    log says that it does not tell of it.
    """
    watch = Watch(engine, _watching(confined, door))
    try:
        if await _begins(gate, watch):
            yield replace(confined, network=watch.network)
        else:
            with suppress(Denied):  # told by the failure of the core
                gate.core.record("watch", door.task, state="none")
            yield confined
    finally:
        await _end(gate, watch)


async def _begins(gate: Gate, watch: Watch) -> bool:
    """Start the watch, and say whether it is there."""
    try:
        watch.start()  # not in a thread, which would go on when this is interrupted
        async with asyncio.timeout(_WATCH_SECONDS):
            await gate.watch.begun.wait()
        reason = "" if gate.watch.on else "/dev/net/tun cannot be used"
    except (BuildError, TimeoutError) as error:
        reason = error.reason if isinstance(error, BuildError) else "the watch did not begin in time"
    if reason:
        say(f"note: what is tried past the gate fails, but is not recorded here: {reason}")
    return not reason


async def _end(gate: Gate, watch: Watch) -> None:
    """Hear what the watch still has to tell, and remove it."""
    try:
        if gate.watch.on:
            await asyncio.to_thread(watch.stop)
            with suppress(TimeoutError):  # the log says then that the watch was lost
                async with asyncio.timeout(_WATCH_SECONDS):
                    await gate.watch.ended.wait()
    finally:
        watch.remove()


def _watching(confined: Confined, door: Door) -> Watched:
    assert door.watch is not None  # noqa: S101 - run() gives it
    inside, socket = f"{_INSIDE}/watch.py", f"{_INSIDE}/watch.sock"
    return Watched(
        image=confined.image,
        owner=confined.owner,
        program=inside,
        socket=socket,
        mounts={inside: _program("watch.py", door.watch.parent), socket: door.watch},
    )


def _program(name: str, folder: Path) -> Path:
    """Copy one of the programs that run inside, so that every user of the container may read it."""
    with resources.as_file(resources.files("templates") / "gate" / name) as source:
        copied = Path(shutil.copyfile(source, folder / name))
    copied.chmod(0o444)
    return copied
