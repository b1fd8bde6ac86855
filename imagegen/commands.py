"""Composition root of the `imagegen` command."""

from __future__ import annotations

from imagegen import cli_bases, cli_evidence, cli_render, cli_verify
from imagegen.cli import app

__all__ = ["app"]

app.add_typer(cli_bases.commands)
app.add_typer(cli_evidence.commands)
app.add_typer(cli_render.commands)
app.add_typer(cli_verify.commands)
