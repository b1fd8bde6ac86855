"""The commands about who may read a private mirror."""

from __future__ import annotations

from typing import Annotated

import typer

from mirror import config as configuration
from mirror.console import print_json, say
from mirror.layout import Layout
from mirror.options import ConfigOption, JsonOption

reader = typer.Typer(name="reader", help="Who may read a private mirror.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The reader's name.")]


@reader.command()
def add(name: NameArgument, config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Let a reader in, or change its token, and print the token."""
    from mirror.publish import devpi_accounts

    loaded = configuration.load_mirror(config)
    layout = Layout(loaded.root)
    with layout.exclusive():
        token = devpi_accounts.add(layout.devpi, name)
    typer.echo(token)
    scheme, _, place = loaded.url.partition("://")
    say(f"kept nowhere; clients use {scheme}://{name}:TOKEN@{place}/simple/")


@reader.command()
def remove(name: NameArgument, config: ConfigOption = configuration.DEFAULT_FILE) -> None:
    """Let a reader in no longer; a server that runs forgets it within a minute."""
    from mirror.publish import devpi_accounts

    layout = Layout(configuration.load_mirror(config).root)
    with layout.exclusive():
        devpi_accounts.remove(layout.devpi, name)
    say(f"{name} reads no longer")


@reader.command("list")
def show(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List the readers."""
    from mirror.publish import devpi_accounts

    layout = Layout(configuration.load_mirror(config).root)
    with layout.exclusive():
        names = devpi_accounts.names(layout.devpi)
    if as_json:
        print_json(names)
    else:
        for name in names:
            typer.echo(name)
