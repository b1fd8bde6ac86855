"""Evidence of every kind of package, without an engine or a base."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from imagegen.contents import Contents
from imagegen.debslock import Deb
from imagegen.evidence import attest
from imagegen.layers import Layer
from imagegen.oci import Image, make_image
from imagegen.plan import ImagePlan, make_plan
from imagegen.rootfs import STATUS, File, RootFs
from imagegen.spec import DebianBase, ImageSpec
from tests.imagegen.plans import ALPHA, BASE, TARGET, artifact, snapshot

SCOPED = replace(artifact("types-1.0.tgz", "e", ecosystem="npm"), name="@of/types", version="1.0")
SNAPSHOT = snapshot(app=(ALPHA,), web=(SCOPED, ALPHA))
SPEC = ImageSpec(name="dev", base=DebianBase(suite="bookworm"), locks=("app", "web"))
DEB = Deb(file="libc6_1%3a2.36-9_amd64.deb", size=1, sha256="9" * 64)
RELEASE = File(content=b'ID=debian\nVERSION_CODENAME="bookworm"\n', mode=0o644, owner=(0, 0))
DPKG = File(
    content=b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.36-9\n\n"
    b"Package: local\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n",
    mode=0o644,
    owner=(0, 0),
)


def stated(debs: tuple[Deb, ...] = ()) -> tuple[ImagePlan, Image, dict[str, Any], dict[str, Any]]:
    """The plan, the image, its bill's components by purl, and its provenance."""
    plan = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="t")
    image = make_image(plan, [Layer(digest="sha256:1", diff_id="sha256:2", size=1)], "amd64")
    root = RootFs(
        files={STATUS: DPKG, "etc/os-release": RELEASE}, python="3.11.2", arch="x86_64", packages={}
    )
    contents = Contents(
        root=root, base="sha256:base", files={ALPHA.sha256: "sha256:l1", SCOPED.sha256: "sha256:l2"}, seeds={}
    )
    bill, origin = attest(plan, SNAPSHOT, {}, debs, image, contents)
    components = {one["purl"]: one for one in json.loads(bill.blob)["components"]}
    return plan, image, components, json.loads(origin.blob)


def properties(component: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((one["name"].removeprefix("lockstock:"), one["value"]) for one in component["properties"])


def test_npm_in_a_scope() -> None:
    found = stated()[2]["pkg:npm/%40of/types@1.0"]

    assert (found["group"], found["name"]) == ("@of", "types")
    assert found["hashes"][0]["content"] == SCOPED.sha256
    assert ("layer", "sha256:l2") in properties(found)
    assert ("lock", "web") in properties(found)


def test_every_lock_that_asked_is_told() -> None:
    found = properties(stated()[2]["pkg:pypi/alpha@1.0"])

    assert [value for name, value in found if name == "lock"] == ["app", "web"]


@pytest.mark.parametrize("debs", [(), (DEB,)])
def test_debian_packages_with_a_lock_and_without(debs: tuple[Deb, ...]) -> None:
    plan, image, components, origin = stated(debs)

    libc = components["pkg:deb/debian/libc6@1:2.36-9?arch=amd64&distro=bookworm"]
    assert ("layer", "sha256:base") in properties(libc)
    assert (("lock", "debs.lock") in properties(libc)) is bool(debs)
    assert [one["content"] for one in libc.get("hashes", [])] == [deb.sha256 for deb in debs]
    assert "hashes" not in components["pkg:deb/debian/local@1?arch=all&distro=bookworm"]
    inputs = {one["name"]: one for one in origin["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert (DEB.file in inputs) is bool(debs)
    assert inputs["base"]["uri"] == plan.base.name
    assert origin["subject"][0]["digest"]["sha256"] == image.digest.removeprefix("sha256:")
