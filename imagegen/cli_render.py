"""`imagegen render`: an image's Dockerfile, or what others use the image with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imagegen import build as building
from imagegen.build import LATEST
from imagegen.cli import NameArgument, load_image
from imagegen.consumers import Consumer, Use
from imagegen.consumers import render as render_for
from imagegen.errors import NotBuiltError
from imagegen.live import live
from imagegen.plan import REPOSITORY
from imagegen.push import LOCK, read_lock
from imagegen.spec import ImageSpec
from mirror import config as configuration
from mirror.config import Config
from mirror.console import human_size, plural, say
from mirror.options import ConfigOption

commands = typer.Typer()


@commands.command()
def render(
    name: NameArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder for the Dockerfile.", metavar="DIR"),
    ] = None,
    consumer: Annotated[
        Consumer | None,
        typer.Option("--for", help="Print a file to use the image with instead.", show_default=False),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
) -> None:
    """Write the Dockerfile and its context into a folder, and build nothing.

    With --for, print what others use the image with: it names the digest in images.lock, so what was
    pushed last, and gives no network.
    """
    if (output is None) == (consumer is None):
        raise typer.BadParameter("give one of --output and --for")
    loaded, spec = load_image(config, name)
    if consumer:
        typer.echo(render_for(consumer, _use(loaded, spec, consumer)), nl=False)
        return
    assert output is not None  # noqa: S101 - for the type checker: one of the two is there
    with live() as progress:
        plan = building.render(loaded, spec, output, progress)
    files = f"{plural(len(plan.stock), 'wheel')}, {human_size(plan.size)}"
    say(f"rendered {plan.reference} into {output}: {files}")


def _use(config: Config, spec: ImageSpec, consumer: Consumer) -> Use:
    pushed = read_lock(config.file.parent / LOCK, spec.name)
    local = f"{REPOSITORY}/{spec.name}:{LATEST}"
    if not pushed and consumer is Consumer.GITHUB:
        raise NotBuiltError(
            "it was not pushed, and a CI job has to pull it",
            where=spec.name,
            hint=f"run `imagegen push {spec.name} HOST/NAME` first",
        )
    if not pushed:
        say(f"note: it was not pushed, so this names {local}, which only this host's engine has")
    return Use(
        name=spec.name,
        reference=pushed or local,
        pushed=bool(pushed),
        user=spec.user,
        checks=spec.checks or ("python -m pytest",),
    )
