"""The commands about what is stocked already: verify, compare, keep, go back, carry elsewhere.

What only one command needs is imported in its function: `mirror refresh` reads this module, too,
and takes milliseconds when nothing changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror import history
from mirror.console import download_progress, human_size, plural, print_json, printable, say
from mirror.errors import DamageError
from mirror.layout import Layout
from mirror.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from mirror.diff import Change
    from mirror.prune import Surplus

commands = typer.Typer()

_NAMED = "`current`, `previous`, or the beginning of a name."
SnapshotArgument = Annotated[str, typer.Argument(metavar="SNAPSHOT", help=_NAMED)]


@commands.command()
def verify(
    config: ConfigOption = configuration.DEFAULT_FILE,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch again what is damaged or lost.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every held file again, and move what is damaged into quarantine."""
    from mirror.refetch import refetch
    from mirror.verify import verify as check

    loaded = configuration.load_mirror(config)
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
        names = ", ".join(list(dict.fromkeys(found.name or found.path for found in verdict.damage))[:5])
        raise DamageError(f"{plural(len(verdict.damage), 'thing')} found that should not be: {names}")


def _size(text: str) -> int:
    """Read 4G, 650M or 4GiB as bytes."""
    found = re.fullmatch(r"(\d+)([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise typer.BadParameter(f"{text!r} is not a size such as 4G or 650MiB")
    size: int = int(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    return size


@commands.command()
def export(
    to: Annotated[
        str, typer.Option("--to", metavar="FILE|DIR", help="The file to write, or the folder for it.")
    ],
    name: SnapshotArgument = history.CURRENT,
    since: Annotated[
        str | None,
        typer.Option(metavar="SNAPSHOT", help="Leave out what this snapshot has: the other side holds it."),
    ] = None,
    volume_size: Annotated[
        int | None,
        typer.Option(parser=_size, metavar="SIZE", help="Split into files of at most this size: 4G."),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Write a snapshot as a bundle, for a mirror that no network leads to."""
    from mirror.transfer import export as write

    layout = Layout(configuration.load_mirror(config).root)
    name = history.resolve(layout.snapshots, name)
    base = history.resolve(layout.snapshots, since) if since else None
    if to.endswith(os.sep):
        Path(to).mkdir(parents=True, exist_ok=True)
    with download_progress() as progress:
        advance = partial(progress.advance, progress.add_task("exporting", total=None))
        done = write(layout, name, base, Path(to), volume_size, advance)
    if as_json:
        print_json(asdict(done))
        return
    for path in done.volumes:
        typer.echo(path)
    say(f"exported {plural(done.files, 'file')} of {name}, {human_size(done.size)}")


@commands.command("import")
def import_(
    volumes: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="The bundle's volumes, in their order.")
    ],
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle, all of it, and then stock and publish what it holds."""
    from mirror.publish.deliver import deliver
    from mirror.transfer import import_ as take

    loaded = configuration.load_mirror(config)
    with download_progress() as progress:
        advance = partial(progress.advance, progress.add_task("importing", total=None))
        done = take(Layout(loaded.root), volumes, partial(deliver, loaded), loaded.keep, advance)
    if as_json:
        print_json(asdict(done))
        return
    fate = "is served now" if done.changed else "was held already"
    say(f"imported {plural(done.files, 'file')}, {human_size(done.size)}; {done.snapshot} {fate}")


@commands.command()
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help=_NAMED)] = history.PREVIOUS,
    new: Annotated[str, typer.Argument(metavar="NEW", help=_NAMED)] = history.CURRENT,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Compare two snapshots: packages added, removed, changed, and their sizes."""
    from mirror.diff import compare

    shelf = Layout(configuration.load_mirror(config).root).snapshots
    names = history.resolve(shelf, old), history.resolve(shelf, new)
    difference = compare(*map(shelf.load, names))
    if as_json:
        print_json({"old": names[0], "new": names[1], **asdict(difference)})
        return
    for change in difference.changes:
        typer.echo(printable(_sentence(change)))
    for title, locks in (
        ("added", difference.locks_added),
        ("removed", difference.locks_removed),
        ("changed", difference.locks_changed),
    ):
        if locks:
            typer.echo(printable(f"locks {title}: {', '.join(locks)}"))
    changes = plural(len(difference.changes), "change")
    say(
        f"{names[0]} to {names[1]}: {changes}; "
        f"{human_size(difference.old_size)} to {human_size(difference.new_size)}, "
        f"{human_size(difference.fetched_size)} of it new"
    )


def _sentence(change: Change) -> str:
    versions = {"added": change.new_versions, "removed": change.old_versions}.get(change.kind)
    shown = " ".join(versions or (*change.old_versions, "to", *change.new_versions))
    grown = change.new_size - change.old_size
    return f"{change.kind} {change.name} {shown}, {'+' if grown >= 0 else '-'}{human_size(abs(grown))}"


@commands.command()
def pin(name: SnapshotArgument, config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Keep a snapshot, whatever its age."""
    layout = Layout(configuration.load_mirror(config).root)
    with layout.exclusive():
        name = history.resolve(layout.snapshots, name)
        history.pin(layout.snapshots, name)
    say(f"{name} is kept until `mirror unpin {name}`")


@commands.command()
def unpin(name: SnapshotArgument, config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Let a pinned snapshot be pruned when its time has come."""
    layout = Layout(configuration.load_mirror(config).root)
    with layout.exclusive():
        name = history.resolve(layout.snapshots, name)
        history.unpin(layout.snapshots, name)
    say(f"{name} is kept no longer than others")


@commands.command()
def rollback(name: SnapshotArgument, config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Serve an older snapshot again, until the next refresh."""
    from mirror.publish.deliver import deliver

    loaded = configuration.load_mirror(config)
    layout = Layout(loaded.root)
    name = history.resolve(layout.snapshots, name)
    changed = history.rollback(layout, name, partial(deliver, loaded))
    say(f"{name} is served" if changed else f"{name} is served already")


@commands.command()
def prune(
    config: ConfigOption = configuration.DEFAULT_FILE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be freed, and free nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop old snapshots, and the files that no kept one names."""
    from mirror.prune import free, surplus
    from mirror.publish.deliver import withdraw

    loaded = configuration.load_mirror(config)
    layout = Layout(loaded.root)
    with layout.exclusive():
        found = surplus(layout, loaded.keep)
        if not dry_run:
            free(layout, found)
        _report_freed(found, as_json=as_json, dry_run=dry_run)
        if not dry_run:
            withdraw(loaded, layout.snapshots.names())  # which may fail elsewhere, after all that


def _report_freed(found: Surplus, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(asdict(found.summary))
        return
    for name in found.snapshots:
        typer.echo(name)
    verb = "would be freed" if dry_run else "freed"
    say(
        f"{plural(len(found.snapshots), 'snapshot')}, {plural(len(found.artifacts), 'file')}, "
        f"{human_size(found.size)} {verb}"
    )
