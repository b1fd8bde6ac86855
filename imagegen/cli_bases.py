"""The commands about what images stand on: lock it, and drop what no image needs any more."""

from __future__ import annotations

from typing import Annotated

import typer

from imagegen.cli import ConfigOption, JsonOption
from imagegen.live import live
from mirror import config as configuration
from mirror.console import human_size, plural, print_json, say

commands = typer.Typer()


@commands.command("lock-base")
def lock_base(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images of lockstock.toml; all of them if none is named.", metavar="NAME", show_default=False
        ),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Choose the Debian packages of bases with apt, stock them, and note them in debs.lock."""
    from imagegen.lockbase import lock_bases

    loaded = configuration.load(config)
    with live() as progress:
        locked = lock_bases(loaded, names or (), progress)
    if as_json:
        print_json(
            [
                {
                    "suite": one.base.suite,
                    "architecture": one.base.architecture,
                    "packages": list(one.base.packages),
                    "debs": len(one.base.debs),
                    "size": one.size,
                    "fresh": list(one.fresh),
                }
                for one in locked
            ]
        )
        return
    for one in locked:
        say(
            f"debian:{one.base.suite} for {one.base.architecture}: {plural(len(one.base.debs), 'package')}, "
            f"{human_size(one.size)}; {len(one.fresh)} new or changed"
        )
