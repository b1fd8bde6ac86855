"""`imagegen build --push`: a real registry, which layers reach while others are still made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from imagegen import direct
from imagegen.layers import Layer
from imagegen.live import Silent
from imagegen.push import Push
from imagegen.reference import Reference
from imagegen.referrers import MANIFEST_TYPE
from imagegen.spec import find_image
from tests.imagegen.base_layout import BaseLayout, base_files, tar
from tests.imagegen.registries import AUTH, SECRET, Registry, docker_config
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_base_images import HERE, project
from tests.imagegen.test_direct import NO_ENGINE
from tests.imagegen.test_push import Cutting
from tests.imagegen.test_referrers import Fake
from tests.wheels import make_wheel

BIG = 100_000


@pytest.fixture
def made(tmp_path: Path) -> StockedProject:
    """A project with an image of four layers above its base, of which none needs a program of that."""
    base = BaseLayout(tmp_path / "base")
    base.name("1", base.image([tar(base_files(tmp_path, HERE))], HERE))
    wheels = [
        make_wheel(tmp_path / "up", name, "1.0", files={f"{name}.bin": os.urandom(BIG)})
        for name in ("alpha", "beta")
    ]
    return project(tmp_path / "p", "oci:../base:1", *wheels, more="compile = false\n")


def ran(made: StockedProject, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ended = made.imagegen("build", "dev", *arguments, environment={**NO_ENGINE, **environment})
    assert "Traceback" not in ended.stderr
    assert "internal error" not in ended.stderr
    return ended


def built(made: StockedProject, *arguments: str) -> Any:
    ended = ran(made, "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def manifest(registry: Registry, repository: str, name: str) -> httpx.Response:
    return registry.get(f"{repository}/manifests/{name}", headers={"Accept": MANIFEST_TYPE})


def is_begun(made: StockedProject) -> bool:
    return any((made.layout.root / name).exists() for name in ("oci", "layers", "registries"))


class TestBuildAndPush:
    def test_report_tags_lock_and_blobs(self, made: StockedProject, registry: Registry) -> None:
        place = f"{registry.host}/team/dev"

        report = built(made, "--push", f"{place}:mine", "--tag", "latest", "--tag", "{version}")

        (pushed,) = report["pushed"]
        assert report["changed"]
        assert report["place"] == "oci:.lockstock/oci"
        assert pushed["reference"] == f"{place}@{report['manifest']}"
        assert pushed["tags"] == ["mine", "latest", report["reference"].partition(":")[2]]
        assert (pushed["mounted"], pushed["present"]) == (0, 0)
        assert pushed["sent"] > 2 * BIG
        for tag in (*pushed["tags"], report["manifest"]):
            answer = manifest(registry, "team/dev", tag)
            assert answer.headers["Docker-Content-Digest"] == report["manifest"]
        layers = answer.json()["layers"]
        assert len(layers) >= 5
        for blob in (answer.json()["config"], *layers):
            assert len(registry.get(f"team/dev/blobs/{blob['digest']}").content) == blob["size"]
        locked = json.loads((made.folder / "images.lock").read_text())["images"]["dev"]
        assert locked == [{"reference": pushed["reference"], "tags": pushed["tags"]}]

    def test_what_stands_is_pushed_as_by_push(self, made: StockedProject, registry: Registry) -> None:
        built(made, "-o", "oci:out")

        first = built(made, "--push", f"{registry.host}/dev:1")
        again = built(made, "--push", f"{registry.host}/dev:1")

        assert (first["changed"], again["changed"]) == (False, False)
        assert again["pushed"][0]["sent"] == 0
        assert again["pushed"][0]["present"] == first["pushed"][0]["sent"] > 2 * BIG

    def test_references_are_printed_last(self, made: StockedProject, registry: Registry) -> None:
        places = [f"{registry.host}/one", f"{registry.host}/two"]

        ended = ran(made, "--push", f"{places[0]}:1", "--push", f"{places[1]}:2")

        report = built(made)
        assert ended.stdout.splitlines()[-2:] == [f"{place}@{report['manifest']}" for place in places]
        assert report["pushed"] == []

    def test_the_second_repository_of_a_registry_is_sent_nothing(
        self, made: StockedProject, registry: Registry
    ) -> None:
        report = built(made, "--push", f"{registry.host}/one:1", "--push", f"{registry.host}/two:1")

        one, two = report["pushed"]
        assert (two["sent"], two["mounted"]) == (0, one["sent"])
        assert manifest(registry, "two", "1").content == manifest(registry, "one", "1").content

    def test_an_output_is_written_as_well(self, made: StockedProject, registry: Registry) -> None:
        report = built(made, "--push", f"{registry.host}/dev:1", "-o", "oci:out")

        assert report["place"] == "oci:out"
        (entry,) = {e["digest"] for e in json.loads((made.folder / "out/index.json").read_text())["manifests"]
                    if "artifactType" not in e}  # fmt: skip
        assert entry == manifest(registry, "dev", "1").headers["Docker-Content-Digest"]

    def test_evidence_is_signed(self, made: StockedProject, registry: Registry) -> None:
        words = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"]
        subprocess.run(words, cwd=made.folder, check=True)
        words = ["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem"]
        subprocess.run(words, cwd=made.folder, check=True)

        (pushed,) = built(made, "--push", f"{registry.host}/dev", "--sign-key", "key.pem")["pushed"]

        told = made.json("inspect", pushed["reference"], "--verify-key", "pub.pem")
        assert told["digest"] == pushed["reference"].partition("@")[2]


class TestEarly:
    def test_layers_are_there_before_the_image_stands(self, made: StockedProject, registry: Registry) -> None:
        """Whoever made a layer waits until the registry has it: one that is kept back never gets there."""
        config, root, seen = made.config, made.layout.root, []

        class Waiting(Push):
            def bring(self, layer: Layer) -> None:
                super().bring(layer)
                until = time.monotonic() + 20
                while registry.get(f"dev/blobs/{layer.digest}").status_code != 200:
                    assert time.monotonic() < until
                    time.sleep(0.01)
                assert not (root / "oci" / "index.json").exists()
                assert registry.get("dev/tags/list").status_code == 404
                seen.append(layer.digest)

        layout = direct.direct_engine(config).layout
        reference = Reference.parse(f"{registry.host}/dev:1")
        with Waiting(made.folder / "images.lock", layout, [reference], (), Silent()) as push:
            built = direct.build(config, find_image(config, "dev"), None, Silent(), (), push)

        content = manifest(registry, "dev", "1").json()
        assert built.fresh
        assert sorted(seen) == sorted(layer["digest"] for layer in content["layers"])

    def test_a_build_that_fails_leaves_no_tag(
        self, made: StockedProject, registry: Registry, tmp_path: Path
    ) -> None:
        wheels = [
            make_wheel(tmp_path / "up", name, "2.0", files={"same.py": name, f"{name}.bin": os.urandom(BIG)})
            for name in ("gamma", "delta")
        ]
        clash = project(tmp_path / "clash", "oci:../base:1", *wheels, more="compile = false\n")

        ended = ran(clash, "--push", f"{registry.host}/dev:1")

        assert ended.returncode == 49
        assert not (clash.folder / "images.lock").exists()
        assert manifest(registry, "dev", "1").status_code == 404


class TestRefusals:
    def test_a_password_that_is_not_known_is_found_before_anything_is_built(
        self, made: StockedProject, tmp_path: Path, free_port: int
    ) -> None:
        with Registry(tmp_path, free_port, AUTH) as registry:
            words = ("--push", f"{registry.host}/dev:1")
            ended = ran(made, *words, DOCKER_CONFIG=str(tmp_path))
            assert ended.returncode == 63
            assert "it answers 401" in ended.stderr
            assert f"docker login {registry.host}" in ended.stderr
            assert "assembling" not in ended.stderr
            assert not is_begun(made)

            folder = docker_config(tmp_path, registry.host)
            ended = ran(made, *words, DOCKER_CONFIG=str(folder))

            assert ended.returncode == 0, ended.stderr
            assert SECRET not in ended.stderr + ended.stdout
            assert "1" in registry.get("dev/tags/list", auth=("ci", SECRET)).json()["tags"]

    def test_who_may_only_pull_is_told_so_before_anything_is_built(self, made: StockedProject) -> None:
        with Fake() as refusing:
            refusing.answers["POST /v2/dev/blobs/uploads/"] = (403, {}, b"")
            ended = ran(made, "--push", f"{refusing.host}/dev:1")

        assert ended.returncode == 63
        assert f"{refusing.host}/dev: it answers 403" in ended.stderr
        assert not is_begun(made)

    def test_one_registry_of_two_that_refuses(self, made: StockedProject, registry: Registry) -> None:
        with Fake() as refusing:
            refusing.answers["POST /v2/dev/blobs/uploads/"] = (403, {}, b"")
            ended = ran(made, "--push", f"{registry.host}/dev:1", "--push", f"{refusing.host}/dev:1")

        assert ended.returncode == 63
        assert not is_begun(made)
        assert not (made.folder / "images.lock").exists()

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("--push", "dev"), 62, "no name of an image in a registry"),
            (("--push", "127.0.0.1:1/dev", "--tag", "a/b"), 62, "it is no tag"),
            (("--tag", "latest"), 2, "--push HOST/NAME"),
            (("--push", "127.0.0.1:1/dev", "--engine", "docker"), 2, "--engine oci"),
        ],
    )
    def test_words_that_do_not_fit(
        self, made: StockedProject, words: tuple[str, ...], code: int, said: str
    ) -> None:
        ended = ran(made, *words, COLUMNS="200")

        assert ended.returncode == code
        assert said in ended.stderr
        assert not is_begun(made)

    def test_a_damaged_images_lock(self, made: StockedProject) -> None:
        (made.folder / "images.lock").write_text("{")

        ended = ran(made, "--push", "127.0.0.1:1/dev")

        assert ended.returncode == 10
        assert not is_begun(made)
        assert built(made)["changed"]


class TestCuts:
    def test_a_registry_that_refuses_later(self, made: StockedProject, registry: Registry) -> None:
        """The build goes on to its end, and whoever pushes then has nothing left to build."""
        with Fake() as refusing:
            begun = {"Location": f"http://{refusing.host}/upload"}
            refusing.answers["POST /v2/dev/blobs/uploads/"] = (202, begun, b"")
            refusing.answers["PUT /upload"] = (403, {}, b"")
            ended = ran(made, "--push", f"{refusing.host}/dev:1")

        assert ended.returncode == 63
        told = [line for line in ended.stderr.splitlines() if "it answers 403" in line]
        assert len(told) == 2
        assert told[0].startswith("note: ")
        assert told[0].endswith("what lacks there is sent when the image stands")
        assert told[1].startswith("error: ")
        assert not (made.folder / "images.lock").exists()
        report = built(made, "--push", f"{registry.host}/dev:1")
        assert not report["changed"]
        assert report["pushed"][0]["sent"] > 2 * BIG

    def test_a_line_that_is_cut_once(self, made: StockedProject, registry: Registry) -> None:
        with Cutting(registry.port, after=BIG // 2) as proxy:
            report = built(made, "--push", f"127.0.0.1:{proxy.port}/dev:1")

        assert proxy.cuts == 1
        content = manifest(registry, "dev", "1")
        assert content.headers["Docker-Content-Digest"] == report["manifest"]
        for layer in content.json()["layers"]:
            assert len(registry.get(f"dev/blobs/{layer['digest']}").content) == layer["size"]

    def test_ctrl_c_does_not_wait_for_a_registry_that_does_not_answer(self, made: StockedProject) -> None:
        with Fake() as stuck:
            begun = {"Location": f"http://{stuck.host}/upload"}
            stuck.answers["POST /v2/dev/blobs/uploads/"] = (202, begun, b"")
            stuck.answers["PUT /upload"] = (0, {}, b"")
            words = made.command("build", "dev", "--push", f"{stuck.host}/dev:1")
            with subprocess.Popen(
                words, cwd=made.folder, env={**os.environ, **NO_ENGINE}, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stderr is not None
                while "the image stands" not in process.stderr.readline():
                    assert process.poll() is None
                sent = time.monotonic()
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
                assert time.monotonic() - sent < 5
                assert "interrupted" in process.stderr.read()
