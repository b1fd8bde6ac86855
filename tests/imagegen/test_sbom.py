"""The bill of materials is, byte for byte, what the library for CycloneDX makes of the same packages."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from imagegen.licences import Licence
from imagegen.plan import ImagePlan, make_plan
from imagegen.sbom import Package, bill
from tests.imagegen.plans import BASE, SNAPSHOT, SPEC, TARGET

DIGEST = f"sha256:{'1b' * 32}"
text = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Z")), min_size=1, max_size=8)
urls = st.builds(
    PackageURL,
    st.sampled_from(["pypi", "npm", "deb"]),
    st.sampled_from(["@babel", "debian", None]),
    st.sampled_from(["alpha", "Beta_one", "beta-one"]) | text.filter(lambda name: name.strip("/.%")),
    st.sampled_from(["1.0", "1.0-1+b1", "2:1~rc1", None]),
    st.sampled_from([{"arch": "all", "distro": "bookworm"}, None]),
)
licences = st.builds(Licence, text=text) | st.just(Licence(text="MIT OR ISC", is_expression=True))
packages = st.builds(
    lambda url, **facts: Package(
        purl=str(url), group=url.namespace, name=url.name, version=url.version, **facts
    ),
    urls,
    use=st.sampled_from(["installed", "stocked", "base"]),
    layer=st.sampled_from([DIGEST, f"sha256:{'2c' * 32}"]),
    filename=st.sampled_from(["", "a-1.whl", "b-1.tar.gz"]),
    sha256=st.sampled_from(["", "ab" * 32]),
    locks=st.lists(text, max_size=3).map(tuple),
    licences=st.lists(licences, max_size=3).map(tuple),
)


@given(st.lists(packages, max_size=6))
def test_it_is_what_the_library_writes(found: list[Package]) -> None:
    plan = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="")

    made = bill(plan, DIGEST, found)

    assert made == of_the_library(plan, found)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.decode()) is None


def of_the_library(plan: ImagePlan, found: Iterable[Package]) -> bytes:
    image = Component(
        type=ComponentType.CONTAINER,
        name=plan.repository,
        version=plan.version,
        bom_ref=DIGEST,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=DIGEST.removeprefix("sha256:"))],
        properties=[
            Property(name="lockstock:base", value=plan.base.name),
            Property(name="lockstock:target", value=plan.target),
        ],
    )
    components = [component(package) for package in {one.reference: one for one in found}.values()]
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, DIGEST), components=components)
    bom.metadata.timestamp = None
    bom.metadata.component = image
    bom.metadata.tools.components.add(
        Component(
            type=ComponentType.APPLICATION,
            name="lockstock",
            version=version("lockstock"),
            bom_ref="lockstock",
        )
    )
    bom.register_dependency(image, components)
    return JsonV1Dot6(bom).output_as_string().encode()


def component(package: Package) -> Component:
    said = [("file", package.filename), ("layer", package.layer), ("use", package.use)]
    said += [("lock", lock) for lock in package.locks]
    return Component(
        type=ComponentType.LIBRARY,
        group=package.group,
        name=package.name,
        version=package.version,
        purl=PackageURL.from_string(package.purl),
        bom_ref=package.reference,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else (),
        licenses=of_licences(package.licences),
        properties=[Property(name=f"lockstock:{name}", value=value) for name, value in said if value],
    )


def of_licences(found: Sequence[Licence]) -> list[LicenseExpression] | list[DisjunctiveLicense]:
    if len(found) == 1 and found[0].is_expression:
        return [LicenseExpression(found[0].text)]
    return [DisjunctiveLicense(name=licence.text) for licence in found]
