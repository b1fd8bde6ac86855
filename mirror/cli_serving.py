"""The commands about a mirror at work: serve it, look how it fares, run it every night.

What only one command needs is imported in its function: `mirror refresh` reads this module, too,
and takes milliseconds when nothing changed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from mirror import config as configuration
from mirror.cli import ConfigOption, JsonOption
from mirror.console import human_size, human_time, print_json, print_table, say
from mirror.layout import Layout
from mirror.publish.deliver import index_url

commands = typer.Typer()


@commands.command()
def serve(
    config: ConfigOption = configuration.DEFAULT_FILE,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on: 0.0.0.0 for all.")
    ] = "127.0.0.1",
) -> None:
    """Serve the mirror until stopped: the Python index, its files, devpi, and a status page."""
    from mirror.serve.app import serve as run

    loaded = configuration.load_mirror(config)
    say(f"serving {index_url(loaded.port)}; Ctrl-C ends")
    sys.exit(run(Layout(loaded.root), host, loaded.port))


@commands.command()
def status(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """Show what is served, how the last refresh ended, and how much room there is."""
    from mirror.status import read_status

    found = read_status(Layout(configuration.load_mirror(config).root))
    if as_json:
        print_json(asdict(found))
        return
    served, run = found.served, found.last_run
    rows = [("snapshot", served.name if served else "none yet")]
    if served:
        rows += [
            ("locks", ", ".join(served.locks)),
            ("not up to date", ", ".join(served.stale) or "none"),
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
