"""The `imagegen` command: thin functions that call the parts and print what they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from imagegen import build as building
from imagegen import direct as directing
from imagegen.compression import Compression
from imagegen.delivery import Pushed
from imagegen.engines.connect import docker_engine
from imagegen.live import Progress, live
from imagegen.nodemodules import posix
from imagegen.places import DOCKER, Output
from imagegen.plan import ImagePlan
from imagegen.push import LOCK, Push
from imagegen.reference import Reference
from imagegen.spec import ImageSpec, find_image, load_images
from mirror import config as configuration
from mirror.config import Config
from mirror.console import human_size, human_time, plural, print_json, print_table, say
from mirror.options import ConfigOption, JsonOption, VersionOption

app = typer.Typer(
    name="imagegen",
    help="Build dev images that hold the locked dependencies, and prove that they work without a network.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

NameArgument = Annotated[
    str,
    typer.Argument(
        help="An image of lockstock.toml, as in \\[images.NAME].", metavar="NAME", show_default=False
    ),
]
SignKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        help="Sign the evidence with this private key (PEM; Ed25519 or ECDSA).",
        metavar="FILE",
        envvar="LOCKSTOCK_SIGN_KEY",
        show_default=False,
    ),
]


PlatformOption = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        help="For what, as in linux/arm64, instead of this host. May be repeated: one image for all of them.",
        metavar="OS/ARCH",
    ),
]

TagOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", help="One more tag of what is pushed; {name} and {version} are filled in. May be repeated."
    ),
]

_VERIFIED: Mapping[bool | None, str] = {None: "not yet", True: "✓", False: "✗"}


class Engine(StrEnum):
    """What builds an image."""

    AUTO = "auto"
    OCI = "oci"
    DOCKER = "docker"


@app.callback()
def main(show_version: VersionOption = False) -> None:
    """Build dev images that hold the locked dependencies, and prove that they work without a network."""


@app.command()
def build(
    name: NameArgument,
    engine: Annotated[
        Engine,
        typer.Option(
            help="What builds: oci assembles layers itself, docker runs a Dockerfile; auto chooses."
        ),
    ] = Engine.AUTO,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Where the image goes: docker, oci:DIR or tar:FILE.", metavar="PLACE"
        ),
    ] = None,
    push: Annotated[
        list[str] | None,
        typer.Option(
            "--push",
            help="Push it, each layer as soon as it is made: HOST/NAME or HOST/NAME:TAG. May be repeated.",
            metavar="REFERENCE",
        ),
    ] = None,
    tag: TagOption = None,
    platform: PlatformOption = None,
    compression: Annotated[
        Compression | None,
        typer.Option(help="How layers are compressed, in the place of what lockstock.toml says."),
    ] = None,
    sign_key: SignKeyOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Build an image from the mirror, without a network.

    An image whose content stands already is not built again. One that is pushed is not loaded into the
    Docker engine, unless --output says so; references are printed and noted as `imagegen push` does.
    """
    place = _output(engine, output, platform or ())
    if engine is Engine.DOCKER and push:
        raise typer.BadParameter("only the direct engine pushes: --engine oci", param_hint="--push")
    if tag and not push:
        raise typer.BadParameter("it is for what is pushed: --push HOST/NAME", param_hint="--tag")
    loaded, spec = load_image(config, name, sign_key)
    spec = replace(spec, compression=compression or spec.compression)
    with live() as progress, _pushing(loaded, push or (), tag or (), progress) as wanted:
        built = directing.build_with(loaded, spec, engine, place, progress, platform or (), wanted)
    if as_json:
        print_json(_describe(built))
    else:
        _print_built(built)
        _print_pushed(built.pushed)


@app.command()
def push(
    name: NameArgument,
    references: Annotated[
        list[str],
        typer.Argument(help="Where to: HOST/NAME or HOST/NAME:TAG.", metavar="REFERENCE", show_default=False),
    ],
    tag: TagOption = None,
    platform: PlatformOption = None,
    sign_key: SignKeyOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Push an image to registries: what they lack of it, and its tags at the end.

    Prints the references with their digests, and notes them in images.lock beside lockstock.toml.
    """
    loaded, spec = load_image(config, name, sign_key)
    with live() as progress, _pushing(loaded, references, tag or (), progress) as wanted:
        plan, images = directing.find_all(loaded, spec, platform or (), progress)
        for image in images:
            directing.sign(loaded, spec, image)
        pushed = wanted.finish(plan, images)
    if as_json:
        print_json([asdict(one) for one in pushed])
    else:
        _print_pushed(pushed)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    name: NameArgument,
    policy: Annotated[
        str,
        typer.Option("--policy", "-p", help="A policy's file, or the name of a ready one.", metavar="POLICY"),
    ],
    task: Annotated[str, typer.Option("--task", help="The name of its log; the image's if not given.")] = "",
    post: Annotated[
        str | None,
        typer.Option("--post", help="Run this with each signed checkpoint on stdin.", metavar="COMMAND"),
    ] = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Run a command in an image whose only way out is a gate.

    The command comes after --. It ends with the command's exit code, and with one line of what was
    reached and what was blocked.
    """
    from imagegen.contained import run as contain  # the gate's cryptography takes long to import
    from mirror.gate.places import Upstreams
    from mirror.gate.policyfile import load_policy
    from mirror.gate.reports import summary
    from mirror.gate.tokens import check_task

    if not context.args:
        raise typer.BadParameter("give the command after --, as in: -- pytest -q")
    loaded, spec = load_image(config, name)
    rules = load_policy(policy, Upstreams(loaded))
    ended = contain(loaded, spec, docker_engine(), rules, check_task(task or name), context.args, post)
    if as_json:
        print_json(asdict(ended))
    say(summary(ended.report))
    raise typer.Exit(ended.code)


@app.command("list")
def list_images(config: ConfigOption = configuration.DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List the images of lockstock.toml, and what verify last found."""
    loaded = configuration.load(config)
    rows = [_summary(loaded, spec) for spec in load_images(loaded)]
    if as_json:
        print_json(rows)
    else:
        shown = [
            (row["name"], row["base"], ", ".join(row["locks"]), _VERIFIED[row["verified"]]) for row in rows
        ]
        print_table("", ("name", "base", "locks", "verified"), shown)


def _output(engine: Engine, text: str | None, platforms: Sequence[str]) -> Output | None:
    try:
        output = Output.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from None
    if engine is Engine.DOCKER and platforms:
        raise typer.BadParameter("only the direct engine has it: --engine oci", param_hint="--platform")
    if engine is Engine.DOCKER and output and output.kind != DOCKER:
        raise typer.BadParameter("only the direct engine writes it: --engine oci", param_hint="--output")
    return output


def _pushing(config: Config, references: Sequence[str], templates: Sequence[str], progress: Progress) -> Push:
    layout = directing.direct_engine(config).layout
    places = [Reference.parse(text) for text in references]
    return Push(config.file.parent / LOCK, layout, places, templates, progress)


def load_image(config: Path, name: str, sign_key: Path | None = None) -> tuple[Config, ImageSpec]:
    """Read the configuration and one image of it; tell where its locks are newer than the stock."""
    loaded = configuration.load(config)
    spec = find_image(loaded, name)
    spec = replace(spec, sign=sign_key or spec.sign)
    for file in building.outdated_locks(loaded, spec):
        say(f"note: {file} has changed since the last `mirror refresh`; the image gets what was stocked then")
    return loaded, spec


def _describe(built: building.Built) -> dict[str, Any]:
    plan = built.plan
    return {
        "name": plan.name,
        "reference": plan.reference,
        "image": built.image.id,
        "digest": plan.digest,
        "manifest": built.digest,
        "place": built.place,
        "builder": built.builder,
        "pushed": [asdict(one) for one in built.pushed],
        "base": asdict(plan.base),
        "target": plan.target,
        "size": built.image.size,
        "installed": len(plan.install),
        "wheels": len(plan.stock) if plan.wheels else 0,
        "npm": len(plan.npm),
        "stocked_size": plan.size,
        "changed": built.fresh,
        "seconds": round(built.seconds, 3),
    }


def _print_built(built: building.Built) -> None:
    plan = built.plan
    say(
        f"built in {human_time(built.seconds)}"
        if built.fresh
        else "nothing has changed: the image stands already"
    )
    lines = {
        "image": plan.reference,
        "also": f"{plan.repository}:{building.LATEST}",
        "digest": built.digest or built.image.id,
        "place": built.place,
        "base": plan.base.name,
        "target": plan.target,
        "installed": plural(len(plan.install), "package") if plan.install else "",
        "wheels": plural(len(plan.stock), "file") if plan.stock and plan.wheels else "",
        "npm": f"{plural(len(plan.npm), 'package')} in {_places(plan)}" if plan.npm else "",
        "stocked": human_size(plan.size),
        "size": human_size(built.image.size),
    }
    for name, value in lines.items():
        if value:
            typer.echo(f"{name:<10} {value}")
    if built.place == DOCKER:
        say(f"next: imagegen verify {plan.name}; or docker run --rm -it --network none {plan.reference}")


def _print_pushed(pushed: Sequence[Pushed]) -> None:
    for one in pushed:
        say(f"sent {human_size(one.sent)}; {human_size(one.mounted + one.present)} were there already")
        typer.echo(one.reference)


def _places(plan: ImagePlan) -> str:
    return ", ".join(["npm's cache", *(f"{posix(project)}/node_modules" for project in plan.node)])


def _summary(config: Config, spec: ImageSpec) -> dict[str, Any]:
    from imagegen.verify import held_at_last  # no build needs what verifies

    verified = held_at_last(config, spec)
    return {"name": spec.name, "base": str(spec.base), "locks": list(spec.locks), "verified": verified}
