"""`imagegen inspect` and `imagegen diff`: what is in an image, and what another one has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagegen.direct import direct_engine
from mirror import config as configuration
from mirror.console import human_size, plural, print_json, print_table, printable, say
from mirror.options import ConfigOption, JsonOption

if TYPE_CHECKING:  # they bring cryptography, which takes long to import
    from imagegen.attestation import Artifact
    from imagegen.difference import Change, Difference
    from imagegen.inspection import Inspection

commands = typer.Typer()

ImageArgument = Annotated[
    str,
    typer.Argument(
        help="An image of lockstock.toml (NAME or NAME:VERSION), oci:DIR, or HOST/NAME:TAG.",
        metavar="IMAGE",
        show_default=False,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--verify-key",
        help="Count only evidence signed by this public key (PEM), and fail without.",
        metavar="FILE",
        show_default=False,
    ),
]
_SHORT = 19


@commands.command()
def inspect(
    image: ImageArgument,
    verify_key: KeyOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Tell what an image is made of: base, snapshot, layers, packages, evidence.

    It may lie in the mirror, in a folder or in a registry, of which only what describes the image is fetched.
    """
    found = _inspected(image, config, verify_key)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


@commands.command()
def diff(
    before: ImageArgument,
    after: ImageArgument,
    verify_key: KeyOption = None,
    config: ConfigOption = configuration.DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Compare two images: packages, layers, sizes, and the bytes that who has the first must fetch."""
    from imagegen.difference import difference

    found = difference(_inspected(before, config, verify_key), _inspected(after, config, verify_key))
    if as_json:
        print_json(found.to_json())
    else:
        _print_difference(found)


def _inspected(image: str, config: Path, verify_key: Path | None) -> Inspection:
    from imagegen.inspection import inspect as look
    from imagegen.signing import load_verify_key
    from imagegen.sources import opened

    key = load_verify_key(verify_key) if verify_key else None
    with opened(image, lambda: direct_engine(configuration.load(config)).layout) as (source, name):
        return look(source, name, image, key)


def _print(found: Inspection) -> None:
    lines = {
        "image": found.reference,
        "digest": found.digest,
        "platform": found.platform,
        "target": found.target,
        "base": " ".join(filter(None, (found.base, found.base_digest))),
        "locks": ", ".join(found.locks),
        "snapshot": found.snapshot,
        "lockstock": found.lockstock,
        "size": f"{human_size(found.size)} in {plural(len(found.layers), 'layer')}",
    }
    for name, value in lines.items():
        if value:
            _line(f"{name:<10} {value}")
    rows = [(layer.digest[:_SHORT], human_size(layer.size), layer.comment) for layer in found.layers]
    print_table("\nlayers", ("digest", "size", "content"), rows)
    _print_packages(found)
    _print_evidence(found.evidence)


def _print_packages(found: Inspection) -> None:
    if found.packages is None:
        say("note: no bill of materials says which packages are in it; images of the direct engine have one")
        return
    rows = [
        (
            item.name,
            item.version,
            item.use,
            ", ".join(item.locks),
            " or ".join(item.licences) or "unknown",
            item.layer[:_SHORT],
        )
        for item in found.packages
        if item.use != "base"
    ]
    print_table("\npackages", ("name", "version", "use", "lock", "licence", "layer"), rows)
    of_base = sum(item.use == "base" for item in found.packages)
    _line(f"and {plural(of_base, 'package')} of the base, which --json lists")


def _print_evidence(artifacts: tuple[Artifact, ...]) -> None:
    rows = [(one.kind, human_size(one.size), _standing(one), one.digest) for one in artifacts]
    print_table("\nevidence", ("kind", "size", "signature", "digest"), rows)


def _standing(one: Artifact) -> str:
    if not one.signed:
        return "not signed"
    return {None: "signed", True: "signed by this key", False: "not by this key"}[one.verified]


def _print_difference(found: Difference) -> None:
    if found.changes is None:
        say("note: one of them has no bill of materials, so packages cannot be compared")
    rows = [
        (_sign(one), one.package, _versions(one.before), _versions(one.after)) for one in found.changes or ()
    ]
    print_table("packages", ("", "package", "before", "after"), rows)
    layers = [("-", layer) for layer in found.removed] + [("+", layer) for layer in found.added]
    rows = [(sign, layer.digest[:_SHORT], human_size(layer.size), layer.comment) for sign, layer in layers]
    print_table("\nlayers", ("", "digest", "size", "content"), rows)
    _line(f"\n{plural(found.shared, 'layer')} of both are the same")
    _line(f"size       {human_size(found.size_before)} before, {human_size(found.size_after)} after")
    _line(f"to fetch   {human_size(found.fetch)} ({found.fetch} bytes) by who has the first")


def _sign(change: Change) -> str:
    return "+" if not change.before else "-" if not change.after else "~"


def _versions(versions: tuple[str, ...]) -> str:
    return ", ".join(versions)


def _line(text: str) -> None:
    typer.echo(printable(text))
