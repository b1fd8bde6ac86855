"""The commands about what is stocked already: verify, compare, keep, go back, carry elsewhere.

What only one command needs is imported in its function: `mirror refresh` reads this module, too,
and takes milliseconds when nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from mirror import config as configuration
from mirror.cli import ConfigOption, JsonOption
from mirror.console import download_progress, human_size, plural, print_json, printable, say
from mirror.errors import DamageError
from mirror.layout import Layout

commands = typer.Typer()


@commands.command()
def verify(
    config: ConfigOption = configuration.DEFAULT_FILE,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch again what is damaged or lost.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every held file again, and move what is damaged into quarantine."""
    from mirror.refetch import refetch
    from mirror.verify import verify as check

    loaded = configuration.load(config)
    with download_progress() as progress:

        def begin(size: int) -> Callable[[int], None]:
            return partial(progress.advance, progress.add_task("verifying", total=size))

        verdict = check(Layout(loaded.root), begin, partial(refetch, loaded) if repair else None)
    if as_json:
        print_json(asdict(verdict))
    else:
        for found in verdict.findings:
            name = f" ({found.name})" if found.name else ""
            fate = "repaired: " if found.repaired else ""
            typer.echo(printable(f"{found.kind}: {found.path}{name}: {fate}{found.reason}"))
        say(f"verified {plural(verdict.files, 'file')}, {human_size(verdict.size)}")
    if verdict.damage:
        names = ", ".join(finding.name or finding.path for finding in verdict.damage[:5])
        raise DamageError(f"{plural(len(verdict.damage), 'thing')} found that should not be: {names}")
