"""Composition root of the `mirror` command."""

from __future__ import annotations

from mirror.cli import app
from mirror.cli_snapshots import commands
from mirror.console import run

app.add_typer(commands)


def main() -> None:
    """Run `mirror` and end the process with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
