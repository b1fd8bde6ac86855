"""The direct engine without any other: same bits, few layers, one change, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.imagegen.stocked import StockedProject
from tests.wheels import make_wheel

pytestmark = [pytest.mark.network, pytest.mark.root]
NAME = "pytest-layout"
IMAGE = f"""
[images.{NAME}]
base = "debian:bookworm"
locks = ["app"]
"""
SOMEBODY = 4711
NO_ENGINE = {"DOCKER_HOST": "unix:///nothing.sock"}
SITE = "opt/lockstock/venv/lib/python3.11/site-packages"


def stocked(folder: Path, cache: Path, *wheels: Path, image: str = IMAGE) -> StockedProject:
    project = StockedProject(folder)
    project.stock({"app": list(wheels)})
    project.share_bases(cache / "bases")
    project.configure(image)
    return project


def built(project: StockedProject, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    ended = project.imagegen(
        "build",
        NAME,
        "--engine",
        "oci",
        *arguments,
        "--json",
        environment={**NO_ENGINE, **(environment or {})},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(project: StockedProject, *arguments: str) -> tuple[int, str]:
    ended = project.imagegen("build", NAME, "--engine", "oci", *arguments, environment=NO_ENGINE)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


class Layout:
    """An OCI image layout with one image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entry = json.loads((folder / "index.json").read_text())["manifests"][0]
        self.manifest = json.loads(self.blob(entry["digest"]).read_text())
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]).read_text())

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "/")

    def evidence(self) -> list[str]:
        """The digests of the artifacts about the image."""
        entries = json.loads((self.folder / "index.json").read_text())["manifests"]
        return [entry["digest"] for entry in entries if "artifactType" in entry]

    def digests(self) -> list[str]:
        return [layer["digest"] for layer in self.manifest["layers"]]

    def members(self) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """All files above the base."""
        for digest in self.digests()[1:]:
            with tarfile.open(self.blob(digest)) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isreg() else None
                    yield member, file.read() if file else b""


class TestSameBits:
    def test_folder_umask_time_zone_locale_and_order_do_not_matter(self, tmp_path: Path, cache: Path) -> None:
        digests = []
        for name, zone, mask in (("one", "Asia/Kathmandu", 0o077), ("two/deeper", "America/Lima", 0o002)):
            folder = tmp_path / name
            names = ("alpha", "beta", "gamma") if name == "one" else ("gamma", "beta", "alpha")
            wheels = [
                make_wheel(folder / "up", n, "1.0", files={f"{n}.py": "x = {'a', 'b'}\n"}) for n in names
            ]
            project = stocked(folder / "project", cache, *wheels)
            before = os.umask(mask)
            try:
                environment = {"TZ": zone, "LC_ALL": "C", "PYTHONHASHSEED": str(mask), "HOME": str(folder)}
                report = built(project, "-o", "oci:out", environment=environment)
            finally:
                os.umask(before)
            layout = Layout(project.folder / "out")
            digests.append((report["manifest"], report["image"], layout.digests(), layout.evidence()))

        assert digests[0] == digests[1]
        assert len(digests[0][-1]) == 2

    def test_the_user_does_not_matter(self, tmp_path: Path, cache: Path) -> None:
        wheel = make_wheel(tmp_path / "up", "alpha", "1.0", files={"alpha.py": "x = {'a', 'b'}\n"})
        mine = built(stocked(tmp_path / "project", cache, wheel))
        project = stocked(tmp_path / "other", cache, wheel)
        words = ["unshare", "--user", f"--map-user={SOMEBODY}", f"--map-group={SOMEBODY}", "--"]
        asked = subprocess.run([*words, "id", "-u"], capture_output=True, text=True, check=True)
        assert asked.stdout == f"{SOMEBODY}\n"
        ended = subprocess.run(
            [*words, *project.command("build", NAME, "--json")],
            cwd=project.folder,
            env={**os.environ, **NO_ENGINE, "HOME": str(tmp_path), "USER": "somebody"},
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.returncode == 0, ended.stderr
        theirs = json.loads(ended.stdout)
        assert (theirs["manifest"], theirs["image"]) == (mine["manifest"], mine["image"])

    def test_again_from_nothing(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path, cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        first = built(project)
        for name in ("oci", "layers"):
            shutil.rmtree(project.layout.root / name)

        second = built(project)

        assert (second["manifest"], second["changed"]) == (first["manifest"], True)
        assert built(project)["changed"] is False


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Layout:
    folder = tmp_path_factory.mktemp("layout")
    wheel = make_wheel(folder / "up", "alpha", "1.0", scripts={"alpha": "alpha:main"})
    project = stocked(folder / "project", cache, wheel)
    built(project, "-o", "oci:out")
    return Layout(project.folder / "out")


class TestContent:
    def test_the_configuration_names_every_layer(self, layout: Layout) -> None:
        assert layout.config["os"] == "linux"
        assert len(layout.config["rootfs"]["diff_ids"]) == len(layout.digests())

    def test_owners_modes_and_times(self, layout: Layout) -> None:
        found = {member.name: member for member, _ in layout.members()}

        assert {member.mtime for member in found.values()} == {315532800}
        own = [member for name, member in found.items() if name.startswith("opt/lockstock/venv")]
        assert {(member.uid, member.gid) for member in own} == {(1000, 1000)}
        assert (found["opt/lockstock"].uid, found["usr"].mode) == (0, 0o755)
        assert (found["workspace"].uid, found["home/sandbox"].uid) == (1000, 1000)
        assert (found["etc/shadow"].mode, found["etc/shadow"].gid) == (0o640, 42)
        assert found["opt/lockstock/venv/bin/alpha"].mode == 0o755

    def test_account_and_hook(self, layout: Layout) -> None:
        found = {member.name: content for member, content in layout.members()}

        assert found["etc/passwd"].endswith(b"sandbox:x:1000:1000::/home/sandbox:/bin/bash\n")
        assert b"root:" in found["etc/passwd"]
        assert b"lockstock_offline.hook()" in found["etc/python3.11/sitecustomize.py"]
        assert layout.config["config"]["User"] == "sandbox"

    def test_modules_are_compiled_and_know_their_source(self, layout: Layout) -> None:
        found = {member.name: content for member, content in layout.members()}

        source = found[f"{SITE}/alpha.py"]
        pyc = found[f"{SITE}/__pycache__/alpha.cpython-311.pyc"]
        assert pyc[4:16] == bytes(4) + (315532800).to_bytes(4, "little") + len(source).to_bytes(4, "little")

    def test_not_compiled_where_not_wanted(self, tmp_path: Path, cache: Path) -> None:
        wheel = make_wheel(tmp_path / "up", "alpha", "1.0")
        project = stocked(tmp_path / "project", cache, wheel, image=f"{IMAGE}compile = false\n")

        built(project, "-o", "oci:out")

        names = [member.name for member, _ in Layout(project.folder / "out").members()]
        assert f"{SITE}/alpha.py" in names
        assert not [name for name in names if name.endswith(".pyc")]


class TestChange:
    def test_a_bump_changes_its_layer_and_the_settings(self, tmp_path: Path, cache: Path) -> None:
        others = [make_wheel(tmp_path / "up", f"other{n}", "1.0") for n in range(30)]
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"), *others)
        built(project, "-o", "oci:one")
        project.stock({"app": [make_wheel(tmp_path / "up", "alpha", "1.1"), *others]})
        project.configure(IMAGE)

        assert built(project, "-o", "oci:two")["changed"] is True

        before, after = (Layout(project.folder / name).digests() for name in ("one", "two"))
        assert len(before) == len(after) <= 40
        assert [old == new for old, new in zip(before, after, strict=True)].count(False) == 2
        assert before[-1] != after[-1]

    def test_images_share_layers(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        built(project)
        before = set((project.layout.root / "oci/blobs/sha256").iterdir())
        project.configure(f'{IMAGE}env = {{ MODE = "test" }}\n')

        assert built(project)["changed"] is True

        fresh = set((project.layout.root / "oci/blobs/sha256").iterdir()) - before
        assert sum(blob.stat().st_size for blob in fresh) < 400_000  # settings, and what is said of the image

    def test_old_images_go_with_what_only_they_needed(self, tmp_path: Path, cache: Path) -> None:
        wheels = [make_wheel(tmp_path / "up", "alpha", f"1.{n}") for n in range(5)]
        project = StockedProject(tmp_path / "project")
        for wheel in wheels:
            project.stock({"app": [wheel]})
            if wheel is wheels[0]:
                project.share_bases(cache / "bases")
            project.configure(IMAGE)
            built(project)

        index = json.loads((project.layout.root / "oci/index.json").read_text())
        assert len([entry for entry in index["manifests"] if "artifactType" not in entry]) == 3
        blobs = list((project.layout.root / "oci/blobs/sha256").iterdir())
        # Base, environment, and the empty configuration of artifacts; of each image alpha, settings,
        # configuration and manifest, and two artifacts.
        assert len(blobs) == 3 + 3 * (4 + 2 * 2)
        assert len(list((project.layout.root / "layers").iterdir())) == 2 + 3 * 2
        assert built(project)["changed"] is False

    def test_what_a_killed_run_left_is_swept(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        blobs = project.layout.root / "oci/blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        (blobs / "half.tmp").write_text("half")

        built(project)

        assert not list(blobs.glob("*.tmp"))

    def test_a_damaged_layer_is_made_again(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        first = built(project, "-o", "oci:out")
        blob = (
            project.layout.root / "oci/blobs" / Layout(project.folder / "out").digests()[1].replace(":", "/")
        )
        blob.unlink()

        assert built(project)["manifest"] == first["manifest"]
        assert blob.exists()


class TestRefusals:
    def test_two_wheels_that_want_one_file(self, tmp_path: Path, cache: Path) -> None:
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", files={"same.py": "1"})
        beta = make_wheel(tmp_path / "up", "beta", "1.0", files={"same.py": "2"})

        code, said = refused(stocked(tmp_path / "project", cache, alpha, beta))

        assert code == 49
        assert "both want to be /opt/lockstock/venv/lib/python3.11/site-packages/same.py" in said

    def test_a_file_where_another_has_a_folder(self, tmp_path: Path, cache: Path) -> None:
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", files={"same.py": "1"})
        beta = make_wheel(tmp_path / "up", "beta", "1.0", files={"same.py/deep/x.txt": "2"})

        code, said = refused(stocked(tmp_path / "project", cache, alpha, beta))

        assert code == 49
        assert "a folder of it" in said

    @pytest.mark.parametrize("name", ["bin/python3", "bin/activate", "pyvenv.cfg", "lib64", "lib64/x.py"])
    def test_a_wheel_that_wants_to_be_a_part_of_the_environment(
        self, tmp_path: Path, cache: Path, name: str
    ) -> None:
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", files={f"alpha-1.0.data/data/{name}": "1"})

        code, said = refused(stocked(tmp_path / "project", cache, alpha))

        assert code == 49
        assert "the virtual environment" in said

    def test_a_shared_file_of_a_name_space_is_fine(self, tmp_path: Path, cache: Path) -> None:
        wheels = [
            make_wheel(tmp_path / "up", name, "1.0", files={"ns/__init__.py": "", f"ns/{name}.py": ""})
            for name in ("alpha", "beta")
        ]

        built(stocked(tmp_path / "project", cache, *wheels))

    def test_a_script_that_calls_nothing(self, tmp_path: Path, cache: Path) -> None:
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", scripts={"go": "nosuch.module:main"})

        code, said = refused(stocked(tmp_path / "project", cache, alpha))

        assert code == 48
        assert "its script 'go' calls nosuch.module" in said

    def test_a_script_may_call_another_package_or_python(self, tmp_path: Path, cache: Path) -> None:
        scripts = {"go": "beta:main", "tool": "zipfile:main"}
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", scripts=scripts)

        built(stocked(tmp_path / "project", cache, alpha, make_wheel(tmp_path / "up", "beta", "1.0")))

    def test_a_hostile_wheel(self, tmp_path: Path, cache: Path) -> None:
        alpha = make_wheel(tmp_path / "up", "alpha", "1.0", files={"../../../../../etc/evil": "x"})

        code, said = refused(stocked(tmp_path / "project", cache, alpha))

        assert code == 48
        assert "leads out of it" in said

    def test_too_few_layers(self, tmp_path: Path, cache: Path) -> None:
        wheel = make_wheel(tmp_path / "up", "alpha", "1.0")

        code, said = refused(stocked(tmp_path / "project", cache, wheel, image=f"{IMAGE}layers = 3\n"))

        assert code == 60
        assert "set `layers` of the image to 4 or more" in said

    def test_a_python_that_the_base_does_not_have(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        text = (project.folder / "lockstock.toml").read_text().replace('["3.11"]', '["3.11.99"]')
        snapshot = project.layout.snapshots.current()
        assert snapshot
        data = snapshot.to_bytes().replace(b'"3.11/', b'"3.11.99/')
        (project.layout.snapshots.root / f"{project.layout.snapshots.current_name()}.json").write_bytes(data)
        (project.folder / "lockstock.toml").write_text(text)

        code, said = refused(project)

        assert code == 45
        assert "it has Python 3.11.2" in said

    def test_no_wheel_in_the_store(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        shutil.rmtree(project.layout.root / "store")

        assert refused(project)[0] == 44

    def test_no_space(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        limited = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "-", sys.executable, "-m", "imagegen"]
        environment = {**os.environ, **NO_ENGINE}

        ended = subprocess.run(
            [*limited, "build", NAME], cwd=project.folder, env=environment, capture_output=True, text=True
        )

        assert ended.returncode == 30, ended.stderr
        assert not list((project.layout.root / "oci/blobs/sha256").glob("*.tmp"))
        assert not (project.layout.root / "oci/index.json").exists()

    @pytest.mark.parametrize("place", ["oci:", "tar", "zip:x", "docker:x"])
    def test_a_place_that_is_none(self, tmp_path: Path, cache: Path, place: str) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))

        assert refused(project, "-o", place)[0] == 2

    def test_a_folder_that_holds_something_else(self, tmp_path: Path, cache: Path) -> None:
        project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))
        (project.folder / "mine").mkdir()
        (project.folder / "mine" / "file").write_text("mine")

        code, said = refused(project, "-o", "oci:mine")

        assert code == 42
        assert "no OCI image layout" in said


def test_one_file_for_every_engine(tmp_path: Path, cache: Path) -> None:
    project = stocked(tmp_path / "project", cache, make_wheel(tmp_path / "up", "alpha", "1.0"))

    report = built(project, "-o", "tar:image.tar")

    with tarfile.open(project.folder / "image.tar") as archive:
        names = archive.getnames()
        docker = json.loads((archive.extractfile("manifest.json") or sys.exit()).read())[0]
    assert "index.json" in names
    assert set(docker["Layers"]) < set(names)
    assert docker["RepoTags"] == [report["reference"], f"lockstock/{NAME}:latest"]
