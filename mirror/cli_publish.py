"""The command that publishes again what is served."""

from __future__ import annotations

import typer

from mirror import config as configuration
from mirror.console import say
from mirror.errors import StoreError
from mirror.layout import Layout
from mirror.options import ConfigOption

commands = typer.Typer()


@commands.command()
def publish(config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Look at every place where clients find packages, and mend what the served snapshot lacks there."""
    from mirror.publish.deliver import deliver

    loaded = configuration.load_mirror(config)
    layout = Layout(loaded.root)
    with layout.exclusive():
        name = layout.snapshots.current_name()
        if name is None:
            raise StoreError("nothing is stocked yet", where=str(loaded.root), hint="run `mirror refresh`")
        deliver(loaded, name, layout.snapshots.load(name), mend=True)
    say(f"{name} is published")
