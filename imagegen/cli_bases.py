"""The commands about what images stand on: lock it, and drop what no image needs any more."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen.live import live
from mirror import config as configuration
from mirror.console import human_size, plural, print_json, say
from mirror.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from imagegen.lockbase import Locked

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
    """Note what bases are now: Debian packages in debs.lock, digests of other images in bases.lock.

    The packages and images are stocked in the mirror. Builds then take exactly them.
    """
    from imagegen.lockbase import lock_bases

    loaded = configuration.load(config)
    with live() as progress:
        locked = lock_bases(loaded, names or (), progress)
    if as_json:
        print_json({"debian": [_describe(one) for one in locked.debian], "pinned": dict(locked.pinned)})
        return
    for one in locked.debian:
        say(
            f"debian:{one.base.suite} for {one.base.architecture}: {plural(len(one.base.debs), 'package')}, "
            f"{human_size(one.size)}; {len(one.fresh)} new or changed"
        )
    for name, digest in sorted(locked.pinned.items()):
        say(f"{name}: {digest}")


def _describe(locked: Locked) -> dict[str, object]:
    return {
        "suite": locked.base.suite,
        "architecture": locked.base.architecture,
        "packages": list(locked.base.packages),
        "debs": len(locked.base.debs),
        "size": locked.size,
        "fresh": list(locked.fresh),
    }


@commands.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Drop bases, unpacked programs, layers and images that no image of lockstock.toml needs any more."""
    from imagegen.prune import prune as drop

    freed = drop(configuration.load(config), dry_run=dry_run)
    size = sum(one.size for one in freed)
    if as_json:
        print_json({"freed": [asdict(one) for one in freed], "size": size, "dry_run": dry_run})
        return
    for one in freed:
        typer.echo(f"{human_size(one.size):>10}  {one.path}")
    say(f"{'would free' if dry_run else 'freed'} {human_size(size)} in {plural(len(freed), 'place')}")
