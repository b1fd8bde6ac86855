"""Composition root of the `mirror` command."""

from __future__ import annotations

from mirror.cli import app
from mirror.cli_locks import commands as lock_commands
from mirror.cli_snapshots import commands
from mirror.console import run

app.add_typer(commands)
app.add_typer(lock_commands)


def main() -> None:
    """Run `mirror` and end the process with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
