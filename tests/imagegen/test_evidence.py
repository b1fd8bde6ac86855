"""What the direct engine says of its images: in the forms of the standards, and true."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.imagegen.registries import Registry
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_direct import NO_ENGINE, Layout, built, stocked
from tests.imagegen.test_signing import ED25519, KEYS, written
from tests.wheels import digest, make_sdist, make_wheel

pytestmark = [pytest.mark.network, pytest.mark.root]
NAME = "pytest-layout"
SITE = "opt/lockstock/venv/lib/python3.11/site-packages"
SBOM, STATEMENT = "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
LICENCE = ("License-Expression: mit or apache-2.0",)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> StockedProject:
    """An image of two wheels, and an sdist and a tool that lie beside them."""
    folder = tmp_path_factory.mktemp("evidence")
    made = StockedProject(folder / "project")
    alpha = make_wheel(folder / "up", "alpha", "1.0", headers=LICENCE)
    beta = make_wheel(folder / "up", "beta-package", "2.1", headers=("License: " + "words " * 99,))
    made.stock({"app": [alpha, beta], "app:build": [make_sdist(folder / "up", "gamma", "3.0")]})
    made.share_bases(cache / "bases")
    made.configure(f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\n')
    built(made, "-o", "oci:out")
    return made


def artifacts(layout: Layout) -> dict[str, list[bytes]]:
    """The content of the artifacts about the image, by their type."""
    found: dict[str, list[bytes]] = {}
    for one in layout.evidence():
        manifest = json.loads(layout.blob(one).read_bytes())
        image = json.loads((layout.folder / "index.json").read_text())["manifests"][0]["digest"]
        assert manifest["subject"]["digest"] == image
        assert layout.blob(manifest["config"]["digest"]).read_bytes() == b"{}"
        (content,) = manifest["layers"]
        found.setdefault(manifest["artifactType"], []).append(layout.blob(content["digest"]).read_bytes())
    return found


@pytest.fixture(scope="module")
def bill(project: StockedProject) -> dict[str, Any]:
    (content,) = artifacts(Layout(project.folder / "out"))[SBOM]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode()) is None
    return dict(json.loads(content))


def component(bill: Mapping[str, Any], purl: str) -> Mapping[str, Any]:
    (found,) = (one for one in bill["components"] if one["purl"] == purl)
    return dict(found)


def properties(found: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in found["properties"]}


def test_without_wheels_only_what_is_installed_is_listed(project: StockedProject, tmp_path: Path) -> None:
    usual = (project.folder / "lockstock.toml").read_text()
    (project.folder / "lockstock.toml").write_text(f"{usual}wheels = false\n")
    built(project, "-o", f"oci:{tmp_path / 'lean'}")
    (project.folder / "lockstock.toml").write_text(usual)

    found = artifacts(Layout(tmp_path / "lean"))
    bill, (provenance,) = json.loads(found[SBOM][0]), found[STATEMENT]
    used = {properties(one)["lockstock:use"] for one in bill["components"] if "pypi" in one["purl"]}
    assert used == {"installed"}
    assert "pkg:pypi/alpha@1.0" in {one["purl"] for one in bill["components"]}
    assert "pkg:pypi/gamma@3.0" not in {one["purl"] for one in bill["components"]}
    assert json.loads(provenance)["predicate"]["buildDefinition"]["externalParameters"]["wheels"] is False


class TestBill:
    def test_a_package(self, bill: dict[str, Any], project: StockedProject) -> None:
        found = component(bill, "pkg:pypi/alpha@1.0")

        wheel = next(project.folder.parent.glob("up/alpha-*.whl"))
        assert found["hashes"] == [{"alg": "SHA-256", "content": digest(wheel)}]
        assert found["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
        assert properties(found)["lockstock:lock"] == "app"
        assert properties(found)["lockstock:use"] == "installed"
        assert properties(found)["lockstock:file"] == wheel.name

    @pytest.mark.parametrize(
        ("purl", "path"),
        [
            ("pkg:pypi/alpha@1.0", f"{SITE}/alpha.py"),
            ("pkg:pypi/beta-package@2.1", f"{SITE}/beta_package.py"),
            ("pkg:pypi/gamma@3.0", "opt/lockstock/wheels/gamma-3.0.tar.gz"),
            ("pkg:pypi/pip@23.0.1", f"{SITE}/pip/__init__.py"),
        ],
    )
    def test_it_lies_in_the_layer_that_is_told(
        self, bill: dict[str, Any], project: StockedProject, purl: str, path: str
    ) -> None:
        layer = properties(component(bill, purl))["lockstock:layer"]

        with tarfile.open(Layout(project.folder / "out").blob(layer)) as archive:
            assert path in archive.getnames()

    def test_what_lies_beside_the_environment(self, bill: dict[str, Any]) -> None:
        found = properties(component(bill, "pkg:pypi/gamma@3.0"))

        assert (found["lockstock:use"], found["lockstock:lock"]) == ("stocked", "app:build")

    def test_debian_packages_are_in_the_base(self, bill: dict[str, Any], project: StockedProject) -> None:
        debian = [one for one in bill["components"] if one["purl"].startswith("pkg:deb/debian/")]

        assert {"libc6", "python3.11-minimal", "git"} <= {one["name"] for one in debian}
        assert {properties(one)["lockstock:layer"] for one in debian} == {
            Layout(project.folder / "out").digests()[0]
        }
        assert all("distro=bookworm" in one["purl"] for one in debian)

    def test_no_clock_and_no_chance(self, bill: dict[str, Any], project: StockedProject) -> None:
        image = bill["metadata"]["component"]
        assert "timestamp" not in bill["metadata"]
        assert image["bom-ref"].removeprefix("sha256:") == image["hashes"][0]["content"]
        before = Layout(project.folder / "out").evidence()
        shutil.rmtree(project.layout.root / "oci")

        built(project, "-o", "oci:again")

        assert Layout(project.folder / "again").evidence() == before

    def test_the_whole_image_depends_on_every_package(self, bill: dict[str, Any]) -> None:
        graph = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
        references = sorted(one["bom-ref"] for one in bill["components"])

        assert sorted(graph[bill["metadata"]["component"]["bom-ref"]]) == references
        assert len(set(references)) == len(references)


def test_provenance(project: StockedProject) -> None:
    layout = Layout(project.folder / "out")
    (content,) = artifacts(layout)[STATEMENT]
    found = json.loads(content)

    image = json.loads((layout.folder / "index.json").read_text())["manifests"][0]["digest"]
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["subject"] == [
        {"name": f"lockstock/{NAME}", "digest": {"sha256": image.removeprefix("sha256:")}}
    ]
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = found["predicate"]["buildDefinition"]
    inputs = {one["name"]: one["digest"]["sha256"] for one in definition["resolvedDependencies"]}
    snapshot = project.layout.snapshots.current()
    assert snapshot
    assert inputs["snapshot"] == snapshot.digest
    assert inputs["lock:app"] == digest(project.folder / "requirements.txt")
    base = layout.config["config"]["Labels"]["org.opencontainers.image.base.digest"]
    assert f"sha256:{inputs['base']}" == base
    assert {file.filename: file.sha256 for file in snapshot.artifacts}.items() <= inputs.items()
    assert definition["externalParameters"]["locks"] == ["app"]
    assert set(found["predicate"]["runDetails"]) == {"builder"}  # no clock


class TestNoChange:
    def test_nothing_is_made_or_imported_for_it(self, project: StockedProject) -> None:
        built(project)
        index = project.layout.root / "oci/index.json"
        before = index.stat().st_mtime_ns

        ended = project.imagegen(
            "build", NAME, "-o", "oci:out", environment={**NO_ENGINE, "PYTHONPROFILEIMPORTTIME": "1"}
        )

        assert ended.returncode == 0
        assert index.stat().st_mtime_ns == before
        assert "imagegen.direct" in ended.stderr
        for name in ("cyclonedx", "imagegen.evidence", "imagegen.signing"):
            assert f" {name}\n" not in ended.stderr

    def test_lost_evidence_is_made_again(self, project: StockedProject) -> None:
        built(project)
        file = project.layout.root / "oci/index.json"
        index = json.loads(file.read_text())
        lost = [entry for entry in index["manifests"] if "artifactType" in entry]
        index["manifests"] = [entry for entry in index["manifests"] if "artifactType" not in entry]
        file.write_text(json.dumps(index))

        assert built(project)["changed"] is True

        found = json.loads(file.read_text())["manifests"]
        assert [entry for entry in found if "artifactType" in entry] == lost


def without_signatures(project: StockedProject) -> None:
    file = project.layout.root / "oci/index.json"
    index = json.loads(file.read_text())
    index["manifests"] = [one for one in index["manifests"] if one.get("artifactType") != ENVELOPE]
    file.write_text(json.dumps(index))


class TestSigned:
    @pytest.fixture(autouse=True)
    def _fresh(self, project: StockedProject) -> None:
        without_signatures(project)
        shutil.rmtree(project.folder / "out", ignore_errors=True)
        project.configure(f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\n')

    def inspected(self, project: StockedProject, *arguments: str) -> tuple[int, str]:
        ended = project.imagegen("inspect", *arguments, environment=NO_ENGINE)
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stdout + ended.stderr

    @pytest.mark.parametrize("name", ["ed25519", "p256"])
    def test_a_key_on_the_command_line(self, project: StockedProject, name: str) -> None:
        written(project.folder, KEYS[name])
        built(project, "--sign-key", "key.pem", "-o", "oci:out")

        code, said = self.inspected(project, "oci:out", "--verify-key", "pub.pem")

        assert code == 0, said
        assert said.count("signed by this key") == 2
        assert len(artifacts(Layout(project.folder / "out"))[ENVELOPE]) == 2
        before = Layout(project.folder / "out").evidence()
        assert built(project, "--sign-key", "key.pem", "-o", "oci:out")["changed"] is False
        assert Layout(project.folder / "out").evidence() == before

    def test_a_key_of_the_environment_and_of_the_configuration(self, project: StockedProject) -> None:
        written(project.folder, ED25519)
        image = f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\n'
        project.configure(image)
        built(project, "-o", "oci:one", environment={"LOCKSTOCK_SIGN_KEY": "key.pem"})
        without_signatures(project)
        project.configure(f'{image}sign = "key.pem"\n')
        built(project, "-o", "oci:two")

        one, two = (Layout(project.folder / name).evidence() for name in ("one", "two"))
        assert one == two
        assert len(one) == 4

    def test_another_key(self, project: StockedProject) -> None:
        written(project.folder, ED25519)
        built(project, "--sign-key", "key.pem", "-o", "oci:out")
        written(project.folder, ed25519.Ed25519PrivateKey.from_private_bytes(b"2" * 32))

        for place in ("oci:out", NAME):
            code, said = self.inspected(project, place, "--verify-key", "pub.pem")
            assert code == 74
            assert "no bill of materials and no provenance of this image is signed" in said

    def test_not_signed(self, project: StockedProject) -> None:
        written(project.folder, ED25519)
        built(project)

        assert self.inspected(project, NAME, "--verify-key", "pub.pem")[0] == 74
        assert self.inspected(project, NAME)[0] == 0

    @pytest.mark.parametrize("change", [bytes.upper, lambda data: data[:-1], lambda data: b""])
    def test_damaged(self, project: StockedProject, change: Callable[[bytes], bytes]) -> None:
        written(project.folder, ED25519)
        built(project, "--sign-key", "key.pem", "-o", "oci:out")
        layout = Layout(project.folder / "out")
        for one in layout.evidence():
            content = layout.blob(json.loads(layout.blob(one).read_bytes())["layers"][0]["digest"])
            content.write_bytes(change(content.read_bytes()))

        assert self.inspected(project, "oci:out", "--verify-key", "pub.pem")[0] == 74

    def test_a_wrong_key_is_found_before_anything_is_built(self, project: StockedProject) -> None:
        (project.folder / "wrong.pem").write_text("noise")
        project.configure(
            f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\nenv = {{ X = "1" }}\n'
        )
        before = (project.layout.root / "oci/index.json").read_bytes()
        for file in ("wrong.pem", "nosuch.pem"):
            ended = project.imagegen("build", NAME, "--sign-key", file, environment=NO_ENGINE)

            assert ended.returncode == 75, ended.stderr
            assert (project.layout.root / "oci/index.json").read_bytes() == before


def test_pushed_signed_and_looked_at_where_it_went(
    project: StockedProject, tmp_path: Path, free_port: int
) -> None:
    without_signatures(project)
    written(project.folder, ED25519)
    built(project)
    with Registry(tmp_path, free_port) as registry:
        reference = f"{registry.host}/team/dev"
        pushed = project.json("push", NAME, reference, "--tag", "latest", "--sign-key", "key.pem")
        there = project.json("inspect", f"{reference}:latest", "--verify-key", "pub.pem")
        between = project.json("diff", NAME, pushed[0]["reference"])

    here = project.json("inspect", NAME, "--verify-key", "pub.pem")
    assert {**there, "reference": ""} == {**here, "reference": ""}
    assert [one["verified"] for one in there["evidence"]].count(True) == 2
    assert (between["fetch"], between["changes"]) == (0, [])
    ended = project.imagegen("render", NAME, "--for", "compose")
    assert pushed[0]["reference"] in ended.stdout


class TestInspect:
    def test_as_data(self, project: StockedProject) -> None:
        without_signatures(project)
        report = built(project)

        found = project.json("inspect", NAME)

        assert (found["digest"], found["id"]) == (report["manifest"], report["image"])
        assert (found["base"], found["base_digest"]) == ("debian:bookworm", report["base"]["digest"])
        snapshot = project.layout.snapshots.current()
        assert snapshot
        assert found["snapshot"] == snapshot.digest
        assert found["locks"] == {"app": f"sha256:{digest(project.folder / 'requirements.txt')}"}
        assert found["size"] == sum(layer["size"] for layer in found["layers"])
        assert [layer["comment"] for layer in found["layers"]][::5] == ["debian:bookworm", "settings"]
        (alpha,) = (one for one in found["packages"] if one["name"] == "alpha")
        assert (alpha["locks"], alpha["licences"]) == (["app"], ["MIT OR Apache-2.0"])
        assert alpha["layer"] in [layer["digest"] for layer in found["layers"]]
        assert sorted(one["kind"] for one in found["evidence"]) == ["bill of materials", "provenance"]

    def test_as_text(self, project: StockedProject) -> None:
        built(project)

        named = (f"lockstock/{NAME}", f"lockstock/{NAME}:latest")  # the latter as `build` tells it
        ended, latest = (project.imagegen("inspect", name) for name in named)

        assert (ended.returncode, latest.returncode) == (0, 0), ended.stderr + latest.stderr
        assert latest.stdout.splitlines()[1:] == ended.stdout.splitlines()[1:]
        for text in ("debian:bookworm sha256:", "beta-package", "MIT OR Apache-2.0", "not signed"):
            assert text in ended.stdout

    @pytest.mark.parametrize(
        ("image", "code"),
        [("nosuch", 46), (f"{NAME}:nosuch", 46), ("oci:nosuch", 46), ("no/host", 62), ("oci:.", 46)],
    )
    def test_what_is_not_there(self, project: StockedProject, image: str, code: int) -> None:
        ended = project.imagegen("inspect", image)

        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr


def test_diff(tmp_path: Path, cache: Path) -> None:
    up = tmp_path / "up"
    kept = make_wheel(up, "kept", "1.0")
    project = stocked(tmp_path / "project", cache, kept, make_wheel(up, "alpha", "1.0"))
    first = built(project, "-o", "oci:one")
    project.stock({"app": [kept, make_wheel(up, "alpha", "1.1"), make_wheel(up, "fresh", "0.1")]})
    project.configure(f'[images.{NAME}]\nbase = "debian:bookworm"\nlocks = ["app"]\n')
    second = built(project, "-o", "oci:two")

    found = project.json("diff", "oci:one", "oci:two")

    assert found["changes"] == [
        {"package": "pypi:alpha", "before": ["1.0"], "after": ["1.1"]},
        {"package": "pypi:fresh", "before": [], "after": ["0.1"]},
    ]
    one, two = Layout(project.folder / "one"), Layout(project.folder / "two")
    fetched = [layer for layer in two.manifest["layers"] if layer["digest"] not in one.digests()]
    assert [layer["digest"] for layer in found["added"]] == [layer["digest"] for layer in fetched]
    manifest = two.blob(second["manifest"]).stat().st_size
    config = two.blob(second["image"]).stat().st_size
    assert found["fetch"] == sum(layer["size"] for layer in fetched) + manifest + config

    names = [report["reference"].removeprefix("lockstock/") for report in (first, second)]
    assert project.json("diff", *names)["fetch"] == found["fetch"]
    ended = project.imagegen("diff", *names)
    assert ended.returncode == 0, ended.stderr
    assert "pypi:alpha" in ended.stdout
    assert f"({found['fetch']} bytes)" in ended.stdout
