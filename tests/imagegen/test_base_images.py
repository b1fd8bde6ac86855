"""Bases that are images: their layers stay as they are, what they say is read with all layers merged."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import zstandard

from imagegen.baseimages import BaseImage, Wanted, bring
from imagegen.basesources import LayoutSource, bring_base
from imagegen.engines.docker import DockerEngine
from imagegen.errors import BaseError, UnfitBaseError
from imagegen.live import Silent
from imagegen.merged import merge
from imagegen.rootfs import RootFs, read_rootfs
from imagegen.spec import OciBase, RegistryBase
from tests.imagegen.base_layout import MANIFEST, BaseLayout, base_files, status, tar
from tests.imagegen.conftest import remove_images
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_direct import NO_ENGINE, Layout
from tests.imagegen.test_push import Registry
from tests.wheels import make_wheel

HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
CONFIG = """\
[targets]
python = ["3.11"]
platforms = ["linux/x86_64", "linux/aarch64"]
glibc = "2.36"

[locks.app]
path = "requirements.txt"

[images.dev]
base = "{base}"
locks = ["app"]
"""


def merged(tmp_path: Path, *layers: bytes) -> dict[str, bytes | str | None]:
    """Merge tars; give contents by path, targets of links, None for folders."""
    paths = []
    for number, layer in enumerate(layers):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(layer)
    out = BytesIO()
    merge(paths, out, "oci:base")
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        return {
            member.name.removeprefix("./"): None
            if member.isdir()
            else member.linkname
            if member.issym()
            else (archive.extractfile(member) or BytesIO()).read()
            for member in archive
        }


class TestMerge:
    def test_the_upper_layer_wins(self, tmp_path: Path) -> None:
        assert merged(tmp_path, tar({"etc/a": b"1", "etc/b": b"1"}), tar({"etc/a": b"2"})) == {
            "etc/a": b"2",
            "etc/b": b"1",
        }

    def test_whiteouts_hide_files_and_folders_of_lower_layers_only(self, tmp_path: Path) -> None:
        low = tar({"etc/a": b"1", "opt/x/": None, "opt/x/deep/f": b"1", "opt/y": b"1"})

        found = merged(tmp_path, low, tar({"etc/.wh.a": b"", "opt/.wh.x": b"", "opt/x/new": b"2"}))

        assert found == {"opt/x/new": b"2", "opt/y": b"1"}

    def test_an_opaque_folder_shows_nothing_of_what_was_in_it(self, tmp_path: Path) -> None:
        low = tar({"opt/x/": None, "opt/x/old": b"1", "opt/xy": b"1"})

        found = merged(tmp_path, low, tar({"opt/x/": None, "opt/x/.wh..wh..opq": b"", "opt/x/new": b"2"}))

        assert found == {"opt/x": None, "opt/x/new": b"2", "opt/xy": b"1"}

    def test_a_file_takes_the_place_of_a_folder_and_the_other_way_round(self, tmp_path: Path) -> None:
        assert merged(tmp_path, tar({"a/f": b"1"}), tar({"a": b"2"})) == {"a": b"2"}
        assert merged(tmp_path, tar({"a": b"1"}), tar({"a/": None, "a/f": b"2"})) == {"a": None, "a/f": b"2"}

    def test_links_between_files_become_files_and_others_stay(self, tmp_path: Path) -> None:
        links = {"hard": (tarfile.LNKTYPE, "file"), "soft": (tarfile.SYMTYPE, "/etc/alternatives/x")}

        assert merged(tmp_path, tar({"file": b"1"}, links)) == {
            "file": b"1",
            "hard": b"1",
            "soft": "/etc/alternatives/x",
        }

    def test_devices_and_links_to_nothing_are_left_out(self, tmp_path: Path) -> None:
        links = {"hard": (tarfile.LNKTYPE, "../../etc/shadow"), "null": (tarfile.CHRTYPE, "")}

        assert merged(tmp_path, tar({"file": b"1"}, links)) == {"file": b"1"}

    @pytest.mark.parametrize("name", ["../evil", "usr/../../evil", "/../evil"])
    def test_a_path_that_leads_out(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BaseError, match="leads out of it"):
            merged(tmp_path, tar({name: b"x"}))

    def test_absolute_paths_are_of_the_root(self, tmp_path: Path) -> None:
        assert merged(tmp_path, tar({"/etc/a": b"1"}), tar({"./etc/.wh.a": b""})) == {}

    @pytest.mark.parametrize("data", [b"no tar" * 200, tar({"f": b"x" * 2000})[:1500]])
    def test_damage(self, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(BaseError, match="no readable tar"):
            merged(tmp_path, data)


@pytest.fixture
def base(tmp_path: Path) -> BaseLayout:
    """A layout with one image of two layers, the upper of which has a whiteout."""
    layout = BaseLayout(tmp_path / "base")
    low = tar({**base_files(tmp_path, HERE), "etc/group": b"root:x:0:\nold:x:5:\n", "opt/gone": b"x"})
    high = tar({"etc/group": b"root:x:0:\n", "opt/.wh.gone": b""})
    settings = {"Env": ["PATH=/opt/bin:/usr/bin", "LC_X=1"], "Labels": {"of": "base"}, "Entrypoint": ["/x"]}
    layout.name("1", layout.image([low, high], HERE, settings))
    return layout


def brought(tmp_path: Path, layout: BaseLayout, tag: str = "", architecture: str = HERE) -> BaseImage:
    base = OciBase(path=layout.folder, tag=tag)
    return bring_base(base, str(base), None, f"linux/{architecture}", tmp_path / "kept", Silent())


class TestLayout:
    def test_it_is_kept_and_read(self, tmp_path: Path, base: BaseLayout) -> None:
        image = brought(tmp_path, base, "1")

        assert [image.blobs.joinpath(layer.digest[7:]).exists() for layer in image.layers] == [True, True]
        assert image.digest == image.pin == base.entries[0]["digest"]
        root = read_rootfs(image.tarball)
        assert (root.python, root.arch, root.libc_version, root.prefix) == (
            "3.11.2",
            platform.machine(),
            "2.36",
            "/usr",
        )
        assert root.distribution == ("debian", "bookworm")
        assert root.files["etc/group"].content == b"root:x:0:\n"
        assert list(root.wheels()) == ["pip-23.0-py3-none-any.whl"]

    def test_the_only_image_needs_no_tag(self, tmp_path: Path, base: BaseLayout) -> None:
        assert brought(tmp_path, base).digest == base.entries[0]["digest"]

    def test_what_is_held_is_asked_of_nobody(self, tmp_path: Path, base: BaseLayout) -> None:
        image = brought(tmp_path, base)
        wanted = Wanted(name="oci:base", tag=image.pin, platform=f"linux/{HERE}")

        def opened() -> Any:
            raise AssertionError("asked")

        assert bring(wanted, opened, tmp_path / "kept", Silent()).digest == image.digest

    def test_a_tag_that_is_not_there(self, tmp_path: Path, base: BaseLayout) -> None:
        with pytest.raises(BaseError, match="it has no image '2'") as caught:
            brought(tmp_path, base, "2")
        assert "it has 1" in caught.value.hint

    def test_no_layout(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()

        with pytest.raises(BaseError, match="no OCI image layout"):
            LayoutSource(OciBase(path=tmp_path / "empty")).resolve("")

    def test_another_platform(self, tmp_path: Path, base: BaseLayout) -> None:
        with pytest.raises(BaseError, match=f"it is for linux/{HERE}, and linux/s390x is wanted"):
            brought(tmp_path, base, architecture="s390x")

    def test_an_index_without_the_platform(self, tmp_path: Path, base: BaseLayout) -> None:
        base.name("all", base.index(base.image([tar({"a": b""})], HERE)))

        assert brought(tmp_path, base, "all").digest != brought(tmp_path, base, "all").pin
        with pytest.raises(BaseError, match=f"not there for linux/s390x, only for linux/{HERE}"):
            brought(tmp_path, base, "all", "s390x")

    def test_a_blob_with_other_bytes(self, tmp_path: Path, base: BaseLayout) -> None:
        manifest = json.loads((base.folder / "blobs/sha256" / base.entries[0]["digest"][7:]).read_text())
        blob = base.folder / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
        blob.write_bytes(blob.read_bytes()[:-1] + b"x")

        with pytest.raises(BaseError, match="came with other bytes"):
            brought(tmp_path, base)
        assert not list((tmp_path / "kept").rglob("*.tmp"))

    def test_a_blob_that_is_longer_than_announced(self, tmp_path: Path, base: BaseLayout) -> None:
        manifest = json.loads((base.folder / "blobs/sha256" / base.entries[0]["digest"][7:]).read_text())
        blob = base.folder / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
        blob.write_bytes(blob.read_bytes() + b"x")

        with pytest.raises(BaseError, match="larger than announced"):
            brought(tmp_path, base)

    def test_a_layer_that_the_configuration_does_not_know(self, tmp_path: Path, base: BaseLayout) -> None:
        base.name("odd", base.image([tar({"a": b""})], HERE, diff_ids=[f"sha256:{'0' * 64}"]))

        with pytest.raises(BaseError, match="not what the image's configuration says"):
            brought(tmp_path, base, "odd")

    def test_a_damaged_layer(self, tmp_path: Path, base: BaseLayout) -> None:
        kind = "application/vnd.oci.image.layer.v1.tar"
        base.name("odd", base.image([b"\x1f\x8bno gzip"], HERE, media_type=kind))

        with pytest.raises(BaseError, match="a layer is damaged"):
            brought(tmp_path, base, "odd")

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("layers", [], "no image"),
            ("layers", [{"mediaType": "x"}, {"mediaType": "x"}], "of the kind 'x'"),
            ("layers", "x", "no image"),
            ("config", {"digest": "../../etc/passwd"}, "no sha256"),
            ("config", None, "no sha256"),
        ],
    )
    def test_a_strange_manifest(
        self, tmp_path: Path, base: BaseLayout, key: str, value: object, reason: str
    ) -> None:
        manifest = json.loads((base.folder / "blobs/sha256" / base.entries[0]["digest"][7:]).read_text())
        base.name("odd", {"mediaType": MANIFEST, **base.blob(json.dumps(manifest | {key: value}).encode())})

        with pytest.raises(BaseError, match=reason):
            brought(tmp_path, base, "odd")

    def test_a_layer_in_zstd_is_read_too(self, tmp_path: Path, base: BaseLayout) -> None:
        layer = tar(base_files(tmp_path, HERE))
        kind = "application/vnd.oci.image.layer.v1.tar+zstd"
        known = f"sha256:{hashlib.sha256(layer).hexdigest()}"
        packed = zstandard.ZstdCompressor().compress(layer)
        base.name("zstd", base.image([packed], HERE, diff_ids=[known], media_type=kind))

        image = brought(tmp_path, base, "zstd")

        assert image.layers[0].media_type == kind
        assert read_rootfs(image.tarball).python == "3.11.2"


class TestRoot:
    def read(self, tmp_path: Path, files: Mapping[str, bytes | None]) -> RootFs:
        (tmp_path / "root.tar").write_bytes(tar(files))
        return read_rootfs(tmp_path / "root.tar")

    def test_a_python_of_its_makers(self, tmp_path: Path) -> None:
        files = {
            **base_files(tmp_path, "amd64"),
            "usr/local/include/python3.12/patchlevel.h": b'#define PY_VERSION  "3.12.7"\n',
            "usr/local/lib/python3.12/ensurepip/_bundled/pip-24.2-py3-none-any.whl": b"wheel",
            "usr/local/lib/python3.12/venv/scripts/common/activate": b"x",
        }

        root = self.read(tmp_path, files)

        assert (root.python, root.prefix, root.build) == ("3.12.7", "/usr/local", "3.12.7")
        assert root.wheels() == {"pip-24.2-py3-none-any.whl": b"wheel"}
        assert dict(root.venv_scripts()) == {"activate": b"x"}

    @pytest.mark.parametrize(
        "files", [{"etc/passwd": b""}, {"var/lib/dpkg/status": status("amd64", without="libc6")}]
    )
    def test_no_debian_with_python(self, tmp_path: Path, files: dict[str, bytes | None]) -> None:
        with pytest.raises(UnfitBaseError, match="no Debian system with Python"):
            self.read(tmp_path, files)

    @pytest.mark.parametrize("data", [b"", b"no tar" * 200, tar({"etc/passwd": b"x" * 2000})[:1500]])
    def test_a_damaged_file(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "base.tar").write_bytes(data)

        with pytest.raises(BaseError, match="no readable tar") as caught:
            read_rootfs(tmp_path / "base.tar")

        assert f"delete {tmp_path / 'base.tar'}" in caught.value.hint


def project(folder: Path, base: str, *wheels: Path, more: str = "") -> StockedProject:
    made = StockedProject(folder)
    made.stock({"app": list(wheels)})
    text = CONFIG.format(base=base) + more
    (folder / "lockstock.toml").write_text(text)
    snapshot = made.layout.snapshots.current()
    assert snapshot
    # What was stocked for this machine's target is stocked for both.
    both = json.loads(snapshot.to_bytes())
    for selected in list(both["selections"]):
        other = "arm64" if HERE == "amd64" else "amd64"
        both["selections"].append(selected | {"target": selected["target"].replace(HERE, other)})
    name = made.layout.snapshots.current_name()
    (made.layout.snapshots.root / f"{name}.json").write_text(json.dumps(both))
    return made


def ran(made: StockedProject, *arguments: str) -> subprocess.CompletedProcess[str]:
    return made.imagegen(*arguments, environment=NO_ENGINE)


def built(made: StockedProject, *arguments: str) -> Any:
    ended = ran(made, "build", "dev", "--engine", "oci", "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


class TestBuild:
    def test_its_layers_are_the_lowest_and_its_settings_hold(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", make_wheel(tmp_path / "up", "alpha", "1.0"),
                       more="compile = false\n")  # fmt: skip

        report = built(made, "-o", "oci:out")

        layout = Layout(made.folder / "out")
        manifest = json.loads((base.folder / "blobs/sha256" / base.entries[0]["digest"][7:]).read_text())
        assert layout.digests()[:2] == [layer["digest"] for layer in manifest["layers"]]
        assert report["base"] == {
            "name": "oci:../base:1",
            "reference": f"oci:../base:1@{base.entries[0]['digest']}",
            "digest": base.entries[0]["digest"],
        }
        settings = layout.config["config"]
        assert "PATH=/opt/lockstock/venv/bin:/opt/bin:/usr/bin" in settings["Env"]
        assert "LC_X=1" in settings["Env"]
        assert settings["Labels"]["of"] == "base"
        assert settings["Labels"]["org.opencontainers.image.base.digest"] == base.entries[0]["digest"]
        assert "Entrypoint" not in settings
        assert len(layout.config["rootfs"]["diff_ids"]) == len(layout.digests())
        assert built(made)["changed"] is False

    def test_it_says_nothing_of_where_the_project_lies(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more="compile = false\n")
        first = built(made)
        for name in ("oci", "bases"):
            shutil.rmtree(made.layout.root / name)

        again = built(made, "-c", str(made.folder / "lockstock.toml"), "-o", "oci:out")

        assert (again["changed"], again["manifest"]) == (True, first["manifest"])
        config = Layout(made.folder / "out").config
        assert {entry["comment"] for entry in config["history"][:2]} == {"oci:../base:1"}
        assert str(tmp_path) not in json.dumps(config)

    def test_another_content_under_the_tag_is_another_image(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more="compile = false\n")
        first = built(made)
        (base.folder / "index.json").unlink()
        base.entries.clear()
        base.name("1", base.image([tar({**base_files(tmp_path, HERE), "new": b"x"})], HERE))

        second = built(made)

        assert first["reference"] != second["reference"]

    def test_a_pin_holds_whatever_the_tag_is(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more="compile = false\n")
        assert ran(made, "lock-base").returncode == 0
        pinned = base.entries[0]["digest"]
        assert f'"oci:../base:1" = "{pinned}"' in (made.folder / "bases.lock").read_text()
        base.entries.clear()
        base.name("1", base.image([tar({**base_files(tmp_path, HERE), "new": b"x"})], HERE))

        assert built(made)["base"]["digest"] == pinned
        assert ran(made, "lock-base").returncode == 0
        assert built(made)["base"]["digest"] == base.entries[0]["digest"]

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ({"etc/passwd": b""}, "no Debian system with Python"),
            (
                {"var/lib/dpkg/status": status(HERE, python="3.12.1")},
                "it has Python 3.12.1, and the target is",
            ),
            ({"var/lib/dpkg/status": status(HERE, without="git")}, "it lacks git"),
            ({"var/lib/dpkg/status": status("s390x")}, "it is s390x"),
        ],
    )
    def test_a_base_that_does_not_fit(
        self, tmp_path: Path, base: BaseLayout, files: dict[str, bytes | None], reason: str
    ) -> None:
        base.name("odd", base.image([tar(files)], HERE))
        made = project(tmp_path / "p", "oci:../base:odd")

        ended = ran(made, "build", "dev", "--engine", "oci")

        assert ended.returncode == 45
        assert reason in ended.stderr

    def test_each_of_its_layers_counts(self, tmp_path: Path, base: BaseLayout) -> None:
        wheel = make_wheel(tmp_path / "up", "alpha", "1.0")
        made = project(tmp_path / "p", "oci:../base:1", wheel, more="layers = 4\n")

        ended = ran(made, "build", "dev", "--engine", "oci")

        assert ended.returncode == 60
        assert "set `layers` of the image to 5 or more" in ended.stderr

    def test_a_registry_gives_it_and_then_nobody_is_asked(
        self, tmp_path: Path, base: BaseLayout, free_port: int
    ) -> None:
        with Registry(tmp_path, free_port) as registry:
            base.push(registry.host, "team/base", "1")
            made = project(tmp_path / "p", f"registry:{registry.host}/team/base:1", more="compile = false\n")
            first = built(made)
            assert ran(made, "lock-base").returncode == 0

        assert first["base"]["digest"] == base.entries[0]["digest"]
        (made.layout.root / "oci" / "index.json").unlink()
        assert built(made)["manifest"] == first["manifest"]
        (made.folder / "bases.lock").unlink()
        ended = ran(made, "build", "dev", "--engine", "oci")
        assert ended.returncode == 41
        assert "the registry does not give it" in ended.stderr

    def test_a_registry_that_does_not_have_it(self, tmp_path: Path, free_port: int) -> None:
        with Registry(tmp_path, free_port) as registry:
            reference = RegistryBase(reference=f"{registry.host}/none:1")
            with pytest.raises(BaseError, match="it has no 1"):
                bring_base(reference, str(reference), None, f"linux/{HERE}", tmp_path / "kept", Silent())


class TestPlatforms:
    @pytest.fixture
    def both(self, tmp_path: Path) -> BaseLayout:
        layout = BaseLayout(tmp_path / "base")
        images = [layout.image([tar(base_files(tmp_path, arch))], arch) for arch in ("amd64", "arm64")]
        layout.name("1", layout.index(*images))
        return layout

    @pytest.fixture
    def made(self, tmp_path: Path, both: BaseLayout) -> StockedProject:
        wheels = [
            make_wheel(tmp_path / "up", "native", "1.0", tag=f"cp311-cp311-manylinux_2_17_{arch}",
                       files={"native.py": f"arch = {arch!r}\n"})
            for arch in ("x86_64", "aarch64")
        ]  # fmt: skip
        made = project(tmp_path / "p", "oci:../base:1", *wheels)
        name = made.layout.snapshots.current_name()
        file = made.layout.snapshots.root / f"{name}.json"
        snapshot = json.loads(file.read_text())
        held = {a["filename"]: a["sha256"] for a in snapshot["artifacts"]}
        for selected in snapshot["selections"]:
            arch = "aarch64" if "arm64" in selected["target"] else "x86_64"
            selected["artifacts"] = [
                sha for filename, sha in held.items() if filename.endswith(f"{arch}.whl")
            ]
        file.write_text(json.dumps(snapshot))
        return made

    def content(self, folder: Path, entry: Mapping[str, Any]) -> dict[str, bytes]:
        def blob(digest: str) -> bytes:
            return (folder / "blobs/sha256" / digest[7:]).read_bytes()

        found = {}
        for layer in json.loads(blob(entry["digest"]))["layers"]:
            with tarfile.open(fileobj=BytesIO(blob(layer["digest"]))) as archive:
                for member in archive:
                    if member.isreg():
                        found[member.name] = (archive.extractfile(member) or BytesIO()).read()
        return found

    def test_a_foreign_one_has_its_own_wheels_and_is_compiled_here(self, made: StockedProject) -> None:
        foreign = "arm64" if HERE == "amd64" else "amd64"

        report = built(made, "--platform", f"linux/{foreign}", "-o", "oci:out")

        assert foreign in report["target"]
        (entry, *_) = json.loads((made.folder / "out/index.json").read_text())["manifests"]
        found = self.content(made.folder / "out", entry)
        site = "opt/lockstock/venv/lib/python3.11/site-packages"
        arch = {"arm64": b"aarch64", "amd64": b"x86_64"}[foreign]
        assert arch in found[f"{site}/native.py"]
        assert f"{site}/__pycache__/native.cpython-311.pyc" in found

    def test_a_lock_stocks_the_base_for_each(self, made: StockedProject, both: BaseLayout) -> None:
        index = both.entries[0]["digest"]
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + "compile = false\n")

        assert ran(made, "lock-base").returncode == 0
        shutil.rmtree(both.folder)

        assert f'"oci:../base:1" = "{index}"' in (made.folder / "bases.lock").read_text()
        for arch in ("amd64", "arm64"):
            assert built(made, "--platform", f"linux/{arch}")["changed"] is True

    def test_a_lock_of_a_base_that_is_not_there_for_each(
        self, made: StockedProject, both: BaseLayout, tmp_path: Path
    ) -> None:
        both.name("own", both.index(both.image([tar(base_files(tmp_path, HERE))], HERE)))
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:own"))
        foreign = "arm64" if HERE == "amd64" else "amd64"

        ended = ran(made, "lock-base")

        assert ended.returncode == 0
        note = f"oci:../base:own is not stocked for linux/{foreign}: it is not there for linux/{foreign}"
        assert note in ended.stderr
        assert f'= "{both.entries[-1]["digest"]}"' in (made.folder / "bases.lock").read_text()

    def test_two_make_one_index(self, made: StockedProject, tmp_path: Path, free_port: int) -> None:
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + "compile = false\n")
        platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")

        report = built(made, *platforms, "-o", "oci:out")

        folder = made.folder / "out"
        named = [e for e in json.loads((folder / "index.json").read_text())["manifests"] if "annotations" in e
                 and "org.opencontainers.image.ref.name" in e["annotations"]]  # fmt: skip
        assert {e["digest"] for e in named} == {report["manifest"]}
        index = json.loads((folder / "blobs/sha256" / report["manifest"][7:]).read_text())
        assert [e["platform"]["architecture"] for e in index["manifests"]] == ["amd64", "arm64"]
        for entry in index["manifests"]:
            arch = {"arm64": b"aarch64", "amd64": b"x86_64"}[entry["platform"]["architecture"]]
            found = self.content(folder, entry)
            assert arch in found["opt/lockstock/venv/lib/python3.11/site-packages/native.py"]
        again = built(made, *platforms)
        assert (again["changed"], again["manifest"]) == (False, report["manifest"])
        with Registry(tmp_path, free_port) as registry:
            ended = ran(made, "push", "dev", f"{registry.host}/team/dev:1", *platforms)
            assert ended.returncode == 0, ended.stderr
            assert ended.stdout.strip() == f"{registry.host}/team/dev@{report['manifest']}"
            accept = {"Accept": "application/vnd.oci.image.index.v1+json"}
            assert registry.get("team/dev/manifests/1", headers=accept).json() == index

    def test_two_are_pushed_while_they_are_made(
        self, made: StockedProject, tmp_path: Path, free_port: int
    ) -> None:
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + "compile = false\n")
        platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")
        with Registry(tmp_path, free_port) as registry:
            report = built(made, *platforms, "--push", f"{registry.host}/team/dev:1")

            assert report["changed"]
            assert report["pushed"][0]["reference"] == f"{registry.host}/team/dev@{report['manifest']}"
            accept = {"Accept": "application/vnd.oci.image.index.v1+json"}
            index = registry.get("team/dev/manifests/1", headers=accept).json()
            assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
            for entry in index["manifests"]:
                single = registry.get(f"team/dev/manifests/{entry['digest']}", headers={"Accept": MANIFEST})
                for layer in single.json()["layers"]:
                    answer = registry.get(f"team/dev/blobs/{layer['digest']}")
                    assert len(answer.content) == layer["size"]

    @pytest.mark.parametrize("place", ["tar:x.tar", "docker"])
    def test_an_engine_takes_one_platform_only(self, made: StockedProject, place: str) -> None:
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + "compile = false\n")
        platforms = ("--platform", "linux/amd64", "--platform", "linux/arm64")

        ended = ran(made, "build", "dev", *platforms, "-o", place)

        assert ended.returncode == 76
        assert "several platforms" in ended.stderr
        assert "assembling" not in ended.stderr
        assert not (made.folder / "mirror" / "oci").exists()

    def test_a_folder_is_no_file(self, made: StockedProject) -> None:
        ended = ran(made, "build", "dev", "-o", "tar:.")

        assert ended.returncode == 76
        assert "tar:.: it is a folder" in ended.stderr
        assert "assembling" not in ended.stderr

    def test_no_pipe_or_device_is_replaced_and_a_link_is_followed(self, made: StockedProject) -> None:
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + "compile = false\n")
        os.mkfifo(made.folder / "pipe")
        (made.folder / "link.tar").symlink_to("linked.tar")

        ended = ran(made, "build", "dev", "-o", "tar:pipe")

        assert ended.returncode == 76
        assert "tar:pipe: it is no plain file" in ended.stderr
        assert (made.folder / "pipe").is_fifo()
        assert ran(made, "build", "dev", "-o", "tar:link.tar").returncode == 0
        assert (made.folder / "link.tar").is_symlink()
        assert (made.folder / "linked.tar").stat().st_size > 0

    def test_a_platform_that_is_no_target(self, made: StockedProject) -> None:
        ended = ran(made, "build", "dev", "--platform", "linux/s390x")

        assert ended.returncode == 3
        assert "[targets] has linux/amd64, linux/arm64" in ended.stderr

    def test_a_debian_base_is_made_on_its_own_kind_only(self, made: StockedProject) -> None:
        (made.folder / "lockstock.toml").write_text(CONFIG.format(base="debian:bookworm"))
        foreign = "arm64" if HERE == "amd64" else "amd64"

        ended = ran(made, "build", "dev", "--platform", f"linux/{foreign}")

        assert ended.returncode == 41
        assert f"a debian: base for linux/{foreign} cannot be made on {platform.machine()}" in ended.stderr


class TestCompression:
    def test_zstd_is_the_same_each_time_and_has_its_media_type(
        self, tmp_path: Path, base: BaseLayout
    ) -> None:
        wheel = make_wheel(tmp_path / "up", "alpha", "1.0")
        digests = []
        for name in ("one", "two"):
            made = project(
                tmp_path / name, "oci:../base:1", wheel, more='compression = "zstd"\ncompile = false\n'
            )
            built(made, "-o", "oci:out")
            layout = Layout(made.folder / "out")
            digests.append(layout.digests())
        kinds = [layer["mediaType"].rpartition("+")[2] for layer in layout.manifest["layers"]]
        assert digests[0] == digests[1]
        assert kinds == ["gzip", "gzip", *["zstd"] * (len(kinds) - 2)]
        with (
            zstandard.open(layout.blob(digests[0][-1]), "rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tree,
        ):
            assert "opt/lockstock/README" in tree.getnames()

    def test_the_option_goes_first(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more='compression = "zstd"\ncompile = false\n')

        zstd, gzip = built(made), built(made, "--compression", "gzip")

        assert zstd["image"] != gzip["image"]  # the plan's digest is in a label
        assert zstd["reference"] != gzip["reference"]

    def test_another_word(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more='compression = "lzma"\n')

        ended = ran(made, "build", "dev")

        assert ended.returncode == 3
        assert "images.dev.compression: 'lzma' is none" in ended.stderr

    @pytest.mark.docker
    def test_every_engine_takes_it(self, tmp_path: Path, base: BaseLayout) -> None:
        made = project(tmp_path / "p", "oci:../base:1", more="compile = false\n")
        engine = DockerEngine()
        try:
            report = made.json("build", "dev", "--compression", "zstd", "-o", "docker")

            assert engine.find(report["reference"])
            assert report["place"] == "docker"
        finally:
            remove_images(engine, "lockstock/dev")


def test_a_dockerfile_cannot_begin_with_a_folder(tmp_path: Path, base: BaseLayout) -> None:
    ended = ran(project(tmp_path / "p", "oci:../base:1"), "render", "dev", "-o", "context")

    assert ended.returncode == 42
    assert "cannot build on a folder" in ended.stderr
