"""What is in an image, package by package, as a CycloneDX 1.6 bill of materials that never varies. Pure.

It is written here, in few lines, for every build that changes anything writes it anew: the library for
all of CycloneDX takes a sixth of a second for it. The tests compare both, byte for byte.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from imagegen.licences import Licence
from imagegen.plan import ImagePlan

NAMESPACE = "lockstock"
"""Of the properties: `lockstock:layer` is the digest of the layer that a package lies in,
`lockstock:lock` a lock that asked for it, `lockstock:use` is `installed`, `stocked` (a file for
the sandbox to install from) or `base`, `lockstock:file` its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package of an image, as one file of it, where it came as a file.

    `purl` is its package URL, of which `group` is the namespace; `sha256` is that of the file, `layer`
    the digest of the layer.
    """

    purl: str
    group: str | None
    name: str
    version: str | None
    use: str
    layer: str
    filename: str = ""
    sha256: str = ""
    locks: tuple[str, ...] = ()
    licences: tuple[Licence, ...] = ()

    @property
    def reference(self) -> str:
        """What stands for it in the bill: versions of a package may be there as several files."""
        return f"{self.purl}#{self.filename}" if self.filename else self.purl


def bill(plan: ImagePlan, digest: str, packages: Iterable[Package]) -> bytes:
    """Write the bill of the image whose manifest has this digest: JSON, without clock and chance."""
    unique = {package.reference: package for package in packages}
    content = _told(
        {
            "components": [_component(package) for package in sorted(unique.values(), key=_place)],
            "dependencies": [
                _told({"dependsOn": sorted(unique) if reference == digest else [], "ref": reference})
                for reference in sorted({*unique, digest})
            ],
            "metadata": _metadata(plan, digest),
            "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, digest).urn,
            "version": 1,
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
        }
    )
    return json.dumps(content).encode()


def _metadata(plan: ImagePlan, digest: str) -> dict[str, Any]:
    tool = {"bom-ref": NAMESPACE, "name": NAMESPACE, "type": "application", "version": version(NAMESPACE)}
    image = {
        "bom-ref": digest,
        "hashes": _hashes(digest.removeprefix("sha256:")),
        "name": plan.repository,
        "properties": _properties({"base": [plan.base.name], "target": [plan.target]}),
        "type": "container",
        "version": plan.version,
    }
    return {"component": image, "tools": {"components": [tool]}}


def _place(package: Package) -> tuple[object, ...]:
    """Say where a package comes among others; what it has not comes last."""
    group, number = package.group, package.version
    return group is None, group or "", package.name, number is None, number or "", package.reference


def _component(package: Package) -> dict[str, Any]:
    found = {
        "file": [package.filename] if package.filename else [],
        "layer": [package.layer],
        "lock": package.locks,
        "use": [package.use],
    }
    return _told(
        {
            "bom-ref": package.reference,
            "group": package.group,
            "hashes": _hashes(package.sha256) if package.sha256 else [],
            "licenses": _licences(package.licences),
            "name": package.name,
            "properties": _properties(found),
            "purl": package.purl,
            "type": "library",
            "version": package.version,
        }
    )


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing."""
    return {name: value for name, value in fields.items() if value}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _licences(licences: Sequence[Licence]) -> list[dict[str, Any]]:
    """Give one expression, or names: the format takes no mixture."""
    if len(licences) == 1 and licences[0].is_expression:
        return [{"expression": licences[0].text}]
    return [{"license": {"name": name}} for name in sorted({licence.text for licence in licences})]


def _properties(found: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Give the properties; the names are in order."""
    return [
        {"name": f"{NAMESPACE}:{name}", "value": value}
        for name, values in found.items()
        for value in sorted(set(values))
    ]
