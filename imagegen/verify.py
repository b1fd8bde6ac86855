"""Proves in a container without a network that an image does what it is for, and reports."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Protocol

from imagegen.archive import Entry
from imagegen.build import LATEST
from imagegen.context import guest_program
from imagegen.direct import bring_built, direct_engine, find_built
from imagegen.engines.box import Box
from imagegen.engines.model import Ran
from imagegen.errors import NotBuiltError
from imagegen.live import Progress
from imagegen.nodeproject import npm_folders
from imagegen.plan import HOME, REPOSITORY, UID, WORKSPACE
from imagegen.project import project_entries
from imagegen.spec import ImageSpec
from mirror.config import Config
from mirror.store import disk_errors, write_atomically

if TYPE_CHECKING:
    from imagegen.engines.docker import DockerEngine

# Addresses for documentation (RFC 5737) and the one where clouds serve metadata.
ADDRESSES = ("192.0.2.1", "198.51.100.1", "169.254.169.254")
ISOLATION = "nothing outside is reachable"
_LIMIT = 1800
_TAIL = 40
_TMP = "/tmp"  # noqa: S108 - inside a container that lives for this run only
_SCRIPTS = "lockstock-verify"
_FRESH = f"{_TMP}/lockstock-fresh"
_REINSTALL = (
    f"python3 -m venv {_FRESH} && {_FRESH}/bin/pip install --quiet --no-cache-dir --no-compile --no-deps "
    f"--require-hashes -r {HOME}/requirements.txt && {_FRESH}/bin/pip check"
)
_NO_WHEELS = (
    f"test ! -e {HOME}/wheels && ! said=$(pip install --no-deps lockstock-nosuch 2>&1) && "
    "printf '%s\\n' \"$said\" | grep 'wheels = false'"
)


class Trial(Protocol):
    """Where an image is tried out: a container, or a box without an engine."""

    def put(self, entries: Iterable[Entry], folder: str, *, uid: int) -> None:
        """Copy files into a folder."""
        ...

    def run(self, command: Sequence[str], *, limit: int) -> Ran:
        """Run a command as the image's user for at most `limit` seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to prove: a name and the command that ends with 0 when it holds."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A step that was run; `output` is the end of what it printed."""

    name: str
    ok: bool
    seconds: float
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found of one image, and whether in `docker` or in `bubblewrap`."""

    name: str
    reference: str
    image: str
    engine: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, object]:
        """Give the report as data."""
        return {"ok": self.ok, **asdict(self)}


def steps(spec: ImageSpec, addresses: Sequence[str], npm: Sequence[str] = ()) -> tuple[Step, ...]:
    """Say what is to be proved, in order; the project's own checks come last, for they may change things.

    `npm` are the folders below the project's that hold locks of npm. Where node_modules is to be there
    already, that is shown before it is made again.
    """
    commands = ("npm ls", "npm ci") if spec.install else ("npm ci", "npm ls")
    return (
        Step(name=ISOLATION, command=_script("isolation.py", addresses)),
        Step(name="pip check", command=("pip", "check")),
        Step(name="imports", command=_script("imports.py", spec.skip_imports)),
        Step(name="re-install from the baked wheels", command=("sh", "-c", _REINSTALL))
        if spec.wheels
        else Step(name="no wheels to install from, and pip says so", command=("sh", "-c", _NO_WHEELS)),
        *(
            Step(name=f"{command} in {folder}", command=("sh", "-c", f"cd {quote(folder)} && {command}"))
            for folder in npm
            for command in commands
        ),
        *(Step(name=line, command=("sh", "-c", line)) for line in spec.checks),
    )


def verify(config: Config, spec: ImageSpec, engine: DockerEngine, progress: Progress) -> Report:
    """Run all steps in the image's newest build and write the report below `reports/`.

    Raises NotBuiltError where there is no image; what does not hold is in the report.
    """
    bring_built(config, spec, engine, progress)
    reference = f"{REPOSITORY}/{spec.name}:{LATEST}"
    image = engine.find(reference)
    if image is None:
        raise NotBuiltError(
            "this image is not in the engine", where=reference, hint=f"run `imagegen build {spec.name}`"
        )
    from imagegen.engines.container import Container  # the SDK takes long to import

    wanted = steps(spec, (*ADDRESSES, *engine.gateways()), npm_folders(config, spec))
    checks = _run(config, spec, lambda owner: Container(engine, image.id, owner), wanted, progress)
    return _reported(
        config,
        spec,
        Report(name=spec.name, reference=reference, image=image.id, engine="docker", checks=checks),
    )


def verify_unpacked(config: Config, spec: ImageSpec, progress: Progress) -> Report:
    """Run all steps in the image's unpacked layers, without an engine, and write the report.

    Raises NotBuiltError where the direct engine has not built it, EngineUnavailableError without
    bubblewrap.
    """
    plan, image = find_built(config, spec, progress)
    layout = direct_engine(config).layout
    progress.step("unpacking the image")
    checks = _run(
        config,
        spec,
        lambda owner: Box(image, layout, config.root / "boxes", owner),
        steps(spec, ADDRESSES, npm_folders(config, spec)),
        progress,
    )
    report = Report(
        name=spec.name, reference=plan.reference, image=image.id, engine="bubblewrap", checks=checks
    )
    return _reported(config, spec, report)


def _reported(config: Config, spec: ImageSpec, report: Report) -> Report:
    data = json.dumps(report.to_json(), indent=2, sort_keys=True) + "\n"
    write_atomically(report_file(config, spec), data.encode())
    return report


def report_file(config: Config, spec: ImageSpec) -> Path:
    """Say where an image's report lies."""
    return config.root / "reports" / f"{spec.name}.json"


def held_at_last(config: Config, spec: ImageSpec) -> bool | None:
    """Say whether everything held when the image was last verified; None where no report says so."""
    try:
        return bool(json.loads(report_file(config, spec).read_bytes())["ok"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _script(name: str, arguments: Sequence[str]) -> tuple[str, ...]:
    return ("python3", f"{_TMP}/{_SCRIPTS}/{name}", *arguments)


def _run(
    config: Config,
    spec: ImageSpec,
    opened: Callable[[str], AbstractContextManager[Trial]],
    wanted: Sequence[Step],
    progress: Progress,
) -> tuple[Check, ...]:
    found = []
    with _alone(config, spec) as owner, opened(owner) as container:
        container.put(_scripts(), _TMP, uid=0)
        if spec.project:
            container.put(project_entries(spec.project, config.root), WORKSPACE, uid=UID)
        for number, step in enumerate(wanted, 1):
            progress.detail(f"{number}/{len(wanted)} {step.name}")
            found.append(_check(step, container.run(step.command, limit=_LIMIT)))
    return tuple(found)


def _scripts() -> list[Entry]:
    names = ("imports.py", "isolation.py")
    return [Entry(path=f"{_SCRIPTS}/{name}", content=guest_program(name)) for name in names]


def _check(step: Step, ran: Ran) -> Check:
    lines = ran.output.strip().splitlines()[-_TAIL:]
    if ran.seconds >= _LIMIT:
        lines.append(f"not done after {_LIMIT} s")
    return Check(name=step.name, ok=ran.code == 0, seconds=round(ran.seconds, 3), output="\n".join(lines))


@contextmanager
def _alone(config: Config, spec: ImageSpec) -> Iterator[str]:
    """Let one run at a time verify an image, and name it, so that it may sweep what an earlier one left."""
    folder = config.root / "reports"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{spec.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            place = hashlib.sha256(str(config.root.resolve()).encode()).hexdigest()[:12]
            yield f"{place}-{spec.name}"
