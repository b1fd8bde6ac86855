"""Files that make a host or a cluster refresh the mirror every night, from templates; pure."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from lockfiles.errors import ConfigError


class Scheduler(StrEnum):
    """Who wakes the mirror."""

    SYSTEMD = "systemd"
    CRON = "cron"
    KUBERNETES = "kubernetes"


_FILES = {
    Scheduler.SYSTEMD: ("lockstock-refresh.service", "lockstock-refresh.timer", "lockstock-serve.service"),
    Scheduler.CRON: ("lockstock.cron",),
    Scheduler.KUBERNETES: ("lockstock-cronjob.yaml",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is run: absolute paths of the program, of lockstock.toml and of the folder it runs in."""

    program: str
    config: str
    folder: str
    user: str
    image: str


def render(scheduler: Scheduler, job: Job) -> dict[str, str]:
    """Give the files by name. Raises ConfigError where a path has characters that no file could take."""
    for value in asdict(job).values():
        if not value.isprintable():
            raise ConfigError("a path with control characters cannot be scheduled", where=repr(value))
    environment = _environment()
    return {name: environment.get_template(f"{name}.j2").render(asdict(job)) for name in _FILES[scheduler]}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("templates", "schedule"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - units, crontabs and YAML, each with a filter of its own
        keep_trailing_newline=True,
    )
    environment.filters["unit"] = _unit
    environment.filters["argument"] = _argument
    environment.filters["shell"] = _shell
    environment.filters["line"] = shlex.quote
    return environment


def _unit(text: str) -> str:
    """Write a value of a unit, in which a percent sign begins a specifier (systemd.unit)."""
    return text.replace("%", "%%")


def _argument(text: str) -> str:
    """Write one argument of ExecStart, where variables and quotes have a meaning, too (systemd.service)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_unit(escaped)}"'


def _shell(text: str) -> str:
    """Write one word of a crontab's command, in which a percent sign is a new line (crontab(5))."""
    return shlex.quote(text).replace("%", "\\%")
