"""Which layer of an image holds what: what its evidence says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imagegen.rootfs import RootFs


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The digests of the layers in which things lie.

    `files` maps the sha256 of stocked files to them, `seeds` the file names of the wheels that came
    with the base's Python; `base` is that of the layer with what `root` lists.
    """

    root: RootFs
    base: str
    files: Mapping[str, str]
    seeds: Mapping[str, str]
