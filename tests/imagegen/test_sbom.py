"""The bill of materials of any packages is valid CycloneDX, and does not depend on their order."""

from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from imagegen.licences import Licence
from imagegen.plan import make_plan
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
    Package,
    purl=urls,
    use=st.sampled_from(["installed", "stocked", "base"]),
    layer=st.sampled_from([DIGEST, f"sha256:{'2c' * 32}"]),
    filename=st.sampled_from(["", "a-1.whl", "b-1.tar.gz"]),
    sha256=st.sampled_from(["", "ab" * 32]),
    locks=st.lists(text, max_size=3).map(tuple),
    licences=st.lists(licences, max_size=3).map(tuple),
)


@given(st.lists(packages, max_size=6, unique_by=lambda package: package.reference))
def test_it_is_valid_and_in_order(found: list[Package]) -> None:
    plan = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="")

    made = bill(plan, DIGEST, found)

    assert made == bill(plan, DIGEST, found[::-1])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made.decode()) is None
    listed = {component["bom-ref"] for component in json.loads(made).get("components", ())}
    assert listed == {package.reference for package in found}
