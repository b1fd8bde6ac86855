"""Composition root of the `imagegen` command."""

from __future__ import annotations

from imagegen import cli_bases, cli_evidence, cli_render, cli_verify
from imagegen.cli import app
from mirror.console import run

app.add_typer(cli_bases.commands)
app.add_typer(cli_evidence.commands)
app.add_typer(cli_render.commands)
app.add_typer(cli_verify.commands)


def main() -> None:
    """Run `imagegen` and end the process with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
