"""The commands about lock-files and their upstreams: write locks anew, ask what became of files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lockfiles.errors import ConfigError
from lockfiles.target import Target
from mirror import config as configuration
from mirror.config import Config, LockSpec
from mirror.console import plural, print_json, print_table, say
from mirror.inputs import read_lock
from mirror.layout import Layout
from mirror.options import ConfigOption, JsonOption
from mirror.snapshot import Snapshot
from mirror.store import output_path, write_atomically

commands = typer.Typer()

LockArgument = Annotated[Path, typer.Argument(help="A lock-file.", metavar="LOCK")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write here, not to stdout.", metavar="FILE")
]


@commands.command()
def rewrite(
    lock: LockArgument,
    index: Annotated[
        str, typer.Option("--index", help="The mirror's simple index, or its npm registry.", metavar="URL")
    ],
    output: OutputOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Write a lock with the file URLs of the mirror, and every other byte as it was.

    uv, pip, PDM with static_urls, npm, Yarn 1 and Bun fetch from the URLs that their locks carry,
    whatever index they are told to use; all tools do so with a package that is locked to one URL.
    """
    from mirror.relocate import left_elsewhere, relocated

    loaded = configuration.load_or_default(config)
    before = read_lock(LockSpec(name="lock", path=lock))
    text = relocated(loaded, before, index)
    _write(text, output)
    for sentence in left_elsewhere(before, text):
        say(sentence)


@commands.command("export-requirements")
def export_requirements(
    lock: LockArgument,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="As 3.11/linux/amd64/glibc2.36; the first of \\[targets] if not given."
        ),
    ] = None,
    extra: Annotated[list[str] | None, typer.Option("--extra", help="An extra to include.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="A group to include, in place of the tool's own choice."),
    ] = None,
    output: OutputOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Write what one target installs of a lock as requirements with hashes, for pip and uv."""
    from lockfiles.export import export_requirements as export
    from mirror.fill import select_one

    loaded = configuration.load_or_default(config)
    spec = LockSpec(name="lock", path=lock, extras=tuple(extra or ()), groups=tuple(group) if group else None)
    text = read_lock(spec)
    _write(export(select_one(loaded, Layout(loaded.root), text, _target(loaded, target))), output)


@commands.command()
def upstream(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """Ask the indexes what has become of the stocked files: yanked, vanished, changed.

    What is held stays held and is served; this only tells.
    """
    from mirror.upstream.compare import compare

    loaded = configuration.load_mirror(config)
    snapshot = Layout(loaded.root).snapshots.current() or Snapshot.of([], [], [])
    changes = compare(loaded, snapshot)
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    if changes:
        rows = ((change.what, change.name, change.version, change.filename) for change in changes)
        print_table("", ("", "package", "version", "file"), rows)
    say(f"{plural(len(changes), 'change')} upstream among {plural(len(snapshot.artifacts), 'stocked file')}")


def _target(config: Config, text: str | None) -> Target:
    if text is None:
        return config.targets[0]
    try:
        return Target.parse(text)
    except ValueError as error:
        raise ConfigError(str(error), where="--target", hint="for example 3.12/linux/arm64/musl") from error


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    write_atomically(output_path(output), text.encode())
    say(f"wrote {output}")
