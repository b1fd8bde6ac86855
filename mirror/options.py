"""What the commands of `mirror` and `imagegen` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # which takes long to import

        typer.echo(f"lockstock {version('lockstock')}")
        raise typer.Exit


ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration to use.", metavar="FILE", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
]
