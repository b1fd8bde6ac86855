"""The user's own commands, run when a refresh failed or when it changed something."""

from __future__ import annotations

import os
import subprocess

from mirror.config import Config
from mirror.console import printable, say
from mirror.runs import Run

_LIMIT = 600.0  # seconds


def run_hooks(config: Config, run: Run) -> None:
    """Run what `[hooks]` names for this outcome; a hook that fails is told, and changes nothing.

    The shell runs it in the folder of lockstock.toml, with what happened in LOCKSTOCK_* variables.
    """
    hooks = {"on_failure": run.exit_code != 0, "on_change": run.changed}
    for name, due in hooks.items():
        command = getattr(config.hooks, name)
        if due and command:
            _run(name, command, config, run)


def _run(name: str, command: str, config: Config, run: Run) -> None:
    facts = {
        "LOCKSTOCK_SNAPSHOT": run.snapshot or "",
        "LOCKSTOCK_EXIT_CODE": str(run.exit_code),
        "LOCKSTOCK_REASON": printable(run.reason),
    }
    try:
        # its output goes to stderr, for stdout has the report
        ended = subprocess.run(
            ["sh", "-c", command], cwd=config.file.absolute().parent, env={**os.environ, **facts},
            stdin=subprocess.DEVNULL, stdout=2, timeout=_LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        say(f"hook {name}: it was stopped after {_LIMIT:.0f} seconds")
        return
    if ended.returncode:
        say(f"hook {name}: it ended with exit code {ended.returncode}")
