"""Files with which others use an image: an editor, compose, a cluster, a CI job; from templates. Pure."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from imagegen.plan import UID, WORKSPACE

if TYPE_CHECKING:
    from jinja2 import Environment

_ODD = re.compile(r"[^a-z0-9]+")
# The runner's own user owns the checkout, and is nobody in the image.
_RUN = (
    'docker run --rm --network none --user "$(id -u):$(id -g)" --env HOME=/tmp '
    f'--volume "$PWD:{WORKSPACE}" "$IMAGE" bash -c '
)


class Consumer(StrEnum):
    """Who is to use an image."""

    DEVCONTAINER = "devcontainer"
    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    GITHUB = "github"


_TEMPLATES = {
    Consumer.DEVCONTAINER: "devcontainer.json.j2",
    Consumer.COMPOSE: "compose.yaml.j2",
    Consumer.KUBERNETES: "kubernetes.yaml.j2",
    Consumer.GITHUB: "github.yml.j2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An image and how it is used; `pushed` is whether `reference` is one that a registry has."""

    name: str
    reference: str
    pushed: bool
    user: str
    checks: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name as clusters and compose take it (RFC 1123)."""
        return _ODD.sub("-", self.name.lower()).strip("-")


def render(consumer: Consumer, use: Use) -> str:
    """Write the file for a consumer. Everything in it is without a network."""
    values = {"use": use, "workspace": WORKSPACE, "uid": UID, "command": _RUN}
    return _environment().get_template(_TEMPLATES[consumer]).render(values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # few commands render anything

    environment = Environment(
        loader=PackageLoader("templates", "consumers"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML and JSON, not HTML; what is of the user goes through `json`
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A string of JSON is one of YAML, too.
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=True)
    environment.filters["quoted"] = shlex.quote
    return environment
