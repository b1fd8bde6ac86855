"""The commands about a mirror at work: serve it, look how it fares, run it every night.

What only one command needs is imported in its function: `mirror refresh` reads this module, too,
and takes milliseconds when nothing changed.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror.console import human_size, human_time, plural, print_json, print_table, printable, say
from mirror.errors import UnhealthyError
from mirror.layout import Layout
from mirror.options import ConfigOption, JsonOption
from mirror.publish.deliver import index_url
from mirror.store import write_atomically

if TYPE_CHECKING:
    from mirror.schedule import Job

commands = typer.Typer()


@commands.command()
def serve(
    config: ConfigOption = configuration.DEFAULT_FILE,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on: 0.0.0.0 for all, :: with IPv6.")
    ] = "127.0.0.1",
) -> None:
    """Serve the mirror until stopped: the Python index, its files, devpi, and a status page."""
    from ipaddress import ip_address

    from mirror.publish.devpi_server import HOST
    from mirror.serve.app import serve as run

    loaded = configuration.load_mirror(config)

    def started(address: str) -> None:
        reached = HOST if ip_address(address).is_unspecified else address
        say(f"serving {index_url(loaded.port, reached)}; Ctrl-C ends")

    layout, in_house = Layout(loaded.root), bool(loaded.in_house)
    sys.exit(run(layout, host, loaded.port, started, in_house=in_house, private=loaded.private))


@commands.command()
def status(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """Show what is served, how the last refresh ended, and how much room there is."""
    from mirror.inputs import outdated
    from mirror.status import read_status

    loaded = configuration.load_mirror(config)
    layout = Layout(loaded.root)
    found = read_status(layout)
    served, run = found.served, found.last_run
    names = [spec.name for spec in loaded.locks]
    changed = outdated(loaded, layout.snapshots.load(served.name), names) if served else ()
    if as_json:
        print_json({**asdict(found), "changed_locks": changed})
        return
    rows = [("snapshot", served.name if served else "none yet")]
    if served and served != found.snapshots[-1]:
        rows[0] = ("snapshot", f"{served.name}; the newest is {found.snapshots[-1].name}")
    if served:
        rows += [
            ("locks", ", ".join(served.locks)),
            ("not up to date", ", ".join((*served.stale, *changed)) or "none"),
            ("packages", str(served.packages)),
            ("files", f"{served.files}, {human_size(served.size)}"),
            ("kept snapshots", str(len(found.snapshots))),
            ("pinned", ", ".join(found.pinned) or "none"),
        ]
    if run:
        age = human_time(max(0.0, time.time() - run.ended))
        fate = "went well" if run.exit_code == 0 else f"failed: {run.reason}"
        rows.append(("last refresh", f"{age} ago, {fate}"))
    rows.append(("free on the disk", f"{human_size(found.disk_free)} of {human_size(found.disk_size)}"))
    print_table("", ("mirror", ""), rows)


@commands.command()
def doctor(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """Look for what would keep a refresh or the server from working, and say what to do."""
    from mirror.doctor import examine, failures

    findings = []
    for found in examine(config):
        findings.append(found)
        if not as_json:
            typer.echo(printable(f"{found.grade:<8} {found.topic}: {found.message}"))
            if found.hint:
                typer.echo(printable(f"         {found.hint}"))
    if as_json:
        print_json([asdict(found) for found in findings])
    if failed := failures(findings):
        topics = ", ".join(dict.fromkeys(found.topic for found in failed))
        raise UnhealthyError(f"{plural(len(failed), 'thing')} will not work: {topics}")


@commands.command()
def schedule(
    systemd: Annotated[bool, typer.Option("--systemd", help="A service and a timer.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A line for crontab.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="A CronJob.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Write files there instead of to stdout.")
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Write what makes a host or a cluster refresh the mirror every night."""
    from mirror.schedule import Scheduler, render

    chosen = [name for name, wanted in zip(Scheduler, (systemd, cron, kubernetes), strict=True) if wanted]
    if len(chosen) != 1:
        raise typer.BadParameter("choose one of --systemd, --cron and --kubernetes")
    configuration.load_mirror(config)
    for name, text in render(chosen[0], _job(config.absolute())).items():
        if to:
            write_atomically(to / name, text.encode())
            say(f"wrote {to / name}")
        else:
            typer.echo(f"# {name}\n{text}")


def _user() -> str:
    """Name who runs this; a container's user may have no name."""
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):  # the latter from Python 3.13
        return str(os.getuid())


def _job(config: Path) -> Job:
    from importlib.metadata import version

    from mirror.schedule import Job

    return Job(
        program=str(Path(sys.executable).with_name("mirror")),
        config=str(config),
        folder=str(config.parent),
        user=_user(),
        image=f"lockstock:{version('lockstock')}",
    )
