"""What is in an image, package by package, as a CycloneDX 1.6 bill of materials that never varies."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from imagegen.licences import Licence
from imagegen.plan import ImagePlan

NAMESPACE = "lockstock"
"""Of the properties: `lockstock:layer` is the digest of the layer that a package lies in,
`lockstock:lock` a lock that asked for it, `lockstock:use` is `installed`, `stocked` (a file for
the sandbox to install from) or `base`, `lockstock:file` its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package of an image, as one file of it, where it came as a file.

    `sha256` is that of the file, `layer` the digest of the layer.
    """

    purl: PackageURL
    use: str
    layer: str
    filename: str = ""
    sha256: str = ""
    locks: tuple[str, ...] = ()
    licences: tuple[Licence, ...] = ()

    @property
    def reference(self) -> str:
        """What stands for it in the bill: versions of a package may be there as several files."""
        return f"{self.purl}#{self.filename}" if self.filename else str(self.purl)


def bill(plan: ImagePlan, digest: str, packages: Iterable[Package]) -> bytes:
    """Write the bill of the image whose manifest has this digest: JSON, without clock and chance."""
    image = Component(
        type=ComponentType.CONTAINER,
        name=plan.repository,
        version=plan.version,
        bom_ref=digest,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        properties=_properties({"target": [plan.target], "base": [plan.base.name]}),
    )
    unique = {package.reference: package for package in packages}
    components = [_component(package) for _, package in sorted(unique.items())]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest), components=components)
    bom.metadata.timestamp = None  # type: ignore[assignment]  # it may be left out, and would be the clock's
    bom.metadata.component = image
    bom.metadata.tools.components.add(
        Component(
            type=ComponentType.APPLICATION, name=NAMESPACE, version=version(NAMESPACE), bom_ref=NAMESPACE
        )
    )
    bom.register_dependency(image, components)
    return JsonV1Dot6(bom).output_as_string().encode()


def _component(package: Package) -> Component:
    found = {
        "file": [package.filename] if package.filename else [],
        "layer": [package.layer],
        "lock": package.locks,
        "use": [package.use],
    }
    return Component(
        type=ComponentType.LIBRARY,
        group=package.purl.namespace,
        name=package.purl.name,
        version=package.purl.version,
        purl=package.purl,
        bom_ref=package.reference,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else (),
        licenses=_licences(package.licences),
        properties=_properties(found),
    )


def _licences(licences: Sequence[Licence]) -> list[LicenseExpression] | list[DisjunctiveLicense]:
    """Give one expression, or names: the format takes no mixture."""
    if len(licences) == 1 and licences[0].is_expression:
        return [LicenseExpression(licences[0].text)]
    return [DisjunctiveLicense(name=licence.text) for licence in licences]


def _properties(found: Mapping[str, Sequence[str]]) -> list[Property]:
    return [
        Property(name=f"{NAMESPACE}:{name}", value=value)
        for name, values in found.items()
        for value in sorted(values)
    ]
