"""Composition root of the `mirror` command."""

from __future__ import annotations

from mirror import cli_serving, cli_snapshots
from mirror.cli import app
from mirror.cli_locks import commands as lock_commands
from mirror.cli_publish import commands as publish_commands
from mirror.cli_readers import reader
from mirror.gate.cli import commands as gate_commands
from mirror.gate.cli_tokens import token

__all__ = ["app"]

app.add_typer(cli_snapshots.commands)
app.add_typer(cli_serving.commands)
app.add_typer(lock_commands)
app.add_typer(publish_commands)
app.add_typer(reader)
app.add_typer(gate_commands)
app.add_typer(token)
