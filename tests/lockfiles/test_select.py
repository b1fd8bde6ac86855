"""The file that a target takes, and what is said when there is none."""

from __future__ import annotations

import platform
import string
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from pip._internal.utils.compatibility_tags import get_supported

from lockfiles.errors import LockError, MissingHashError, NoMatchingArtifactError
from lockfiles.export import export_requirements
from lockfiles.formats import parse
from lockfiles.model import (
    Artifact,
    Digest,
    GitSource,
    IndexSource,
    Lock,
    Package,
    PathSource,
    Source,
    UrlSource,
)
from lockfiles.select import Sdists, best_artifact, select
from lockfiles.target import Target

SHA = Digest("sha256", "a" * 64)
LINUX = Target("3.12.1")


def package(*filenames: str, name: str = "demo", version: str = "1.0") -> Package:
    return Package(
        name=name, version=version, artifacts=tuple(Artifact(filename=f, digests=(SHA,)) for f in filenames)
    )


def lock(*packages: Package, **fields: object) -> Lock:
    return Lock(format="uv.lock", filename="uv.lock", packages=packages, **fields)  # type: ignore[arg-type]


def test_the_order_of_tags_is_that_of_pip_on_this_machine() -> None:
    here = Target(platform.python_version(), platform.machine(), "glibc", platform.libc_ver()[1])
    assert list(map(str, here.tags)) == list(map(str, sys_tags())) == list(map(str, get_supported()))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("3.12/linux/amd64", "demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
        ("3.12/linux/amd64/glibc2.28", "demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
        ("3.12/linux/amd64/glibc2.27", "demo-1.0-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"),
        ("3.12/linux/amd64/glibc2.16", "demo-1.0-py3-none-any.whl"),
        ("3.12/linux/arm64", "demo-1.0-cp39-abi3-manylinux_2_17_aarch64.whl"),
        ("3.12/linux/amd64/musl1.2", "demo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl"),
        ("3.12/linux/amd64/musl1.1", "demo-1.0-py3-none-any.whl"),
        ("3.8/linux/arm64", "demo-1.0-py3-none-any.whl"),
    ],
)
def test_the_best_wheel(target: str, expected: str) -> None:
    demo = package(
        "demo-1.0.tar.gz",
        "demo-1.0-py3-none-any.whl",
        "demo-1.0-cp39-abi3-manylinux_2_17_aarch64.whl",
        "demo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl",
        "demo-1.0-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "demo-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "demo-1.0-cp312-cp312t-manylinux_2_28_x86_64.whl",
    )
    assert best_artifact(demo, Target.parse(target)).filename == expected


def test_of_equal_wheels_the_higher_build_number() -> None:
    names = ["demo-1.0-9-py3-none-any.whl", "demo-1.0-10-py3-none-any.whl", "demo-1.0-py3-none-any.whl"]
    assert best_artifact(package(*names), LINUX).filename == names[1]


def test_a_name_that_stands_for_a_billion_tags_is_no_wheel() -> None:
    many = ".".join(f"x{number}" for number in range(1000))
    name = f"demo-1.0-{many}-{many}-{many}.whl"
    url = f"https://files.example/{name}"
    head = 'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "demo"\n'
    pylock = f'{head}[[packages.wheels]]\nurl = "{url}"'
    for file, text in [
        ("requirements.txt", f"demo @ {url} --hash={SHA}"),
        ("requirements.txt", f"{url} --hash={SHA}"),
        ("pylock.toml", f'{pylock}\nhashes = {{ sha256 = "x" }}'),
        ("pylock.toml", pylock.replace(".x", "%2Ex") + '\nhashes = { sha256 = "x" }'),
    ]:
        with pytest.raises((LockError, NoMatchingArtifactError)):
            select(parse(file, text), LINUX)
    few = ".".join(string.ascii_lowercase)  # in a name that a file may have: 17,576 tags
    with pytest.raises(NoMatchingArtifactError):
        select(lock(package(f"demo-1.0-{few}-{few}-{few}.whl")), LINUX)


def test_an_sdist_where_no_wheel_fits() -> None:
    demo = package("demo-1.0-cp39-cp39-win_amd64.whl", "demo-1.0.zip", "demo-1.0.tar.gz")
    assert best_artifact(demo, LINUX).filename == "demo-1.0.tar.gz"
    with pytest.raises(NoMatchingArtifactError, match=r"demo==1.0 has no wheel that fits 3.12.1/linux/amd64"):
        best_artifact(demo, LINUX, "never")


def test_sdists_may_be_asked_for_and_refused_by_package() -> None:
    both = package("demo-1.0-py3-none-any.whl", "demo-1.0.tar.gz")
    other = package("other-1.0-py3-none-any.whl", "other-1.0.tar.gz", name="other")
    sdists = Sdists(default="always", packages={"other": "never"})
    chosen = select(lock(both, other), LINUX, sdists=sdists).choices
    assert [choice.artifact.filename for choice in chosen] == [
        "demo-1.0.tar.gz",
        "other-1.0-py3-none-any.whl",
    ]
    with pytest.raises(NoMatchingArtifactError, match="no sdist"):
        select(lock(package("demo-1.0-py3-none-any.whl")), LINUX, sdists=Sdists(default="always"))


def test_the_options_of_a_requirements_file_decide_too() -> None:
    both = package("demo-1.0-py3-none-any.whl", "demo-1.0.tar.gz")
    for options, expected in [
        ({"no-binary": (":all:",)}, ".tar.gz"),
        ({"no-binary": ("x,Demo",)}, ".tar.gz"),
        ({"no-binary": ("x",)}, ".whl"),
        ({"only-binary": ("demo",)}, ".whl"),
        ({"no-binary": (":all:",), "only-binary": ("demo",)}, ".whl"),
        ({"only-binary": (":all:",), "no-binary": ("demo",)}, ".tar.gz"),
    ]:
        assert select(lock(both, options=options), LINUX).choices[0].artifact.filename.endswith(expected)


@pytest.mark.parametrize(
    ("wheels", "nearest"),
    [
        (["demo-1.0-cp312-cp312-win_amd64.whl", "demo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl"],
         "demo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl, which is for another platform"),
        (["demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "demo-1.0-cp312-cp312-win_amd64.whl"],
         "demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl, which is for another Python"),
        (["demo-1.0-cp311-cp311-win_amd64.whl"],
         "demo-1.0-cp311-cp311-win_amd64.whl, which is for another platform and Python"),
        (["demo-1.0-cp312-cp312-manylinux_2_39_x86_64.whl"],
         "demo-1.0-cp312-cp312-manylinux_2_39_x86_64.whl, which is for another platform"),
    ],
)  # fmt: skip
def test_the_nearest_wheel_is_named(wheels: list[str], nearest: str) -> None:
    with pytest.raises(NoMatchingArtifactError) as caught:
        select(lock(package(*wheels)), LINUX)
    assert str(caught.value) == (
        f"demo==1.0 has no file that fits 3.12.1/linux/amd64/glibc2.36; the nearest wheel is {nearest}"
    )


def test_a_file_without_a_strong_hash_is_refused() -> None:
    weak = Artifact(filename="demo-1.0-py3-none-any.whl", digests=(Digest("md5", "a" * 32),))
    with pytest.raises(MissingHashError, match=r"uv.lock: demo==1.0: demo-1.0-py3-none-any.whl has no hash"):
        select(lock(Package(name="demo", version="1.0", artifacts=(weak,))), LINUX)


def test_two_versions_at_once_are_refused() -> None:
    both = lock(package("demo-1.0.tar.gz"), package("demo-2.0.tar.gz", version="2.0"))
    with pytest.raises(LockError, match=r"both demo==1.0 and demo==2.0 would be installed"):
        select(both, LINUX)


@pytest.mark.parametrize(("extras", "groups"), [(["x"], None), ([], ["x"])])
def test_extras_and_groups_must_be_there(extras: list[str], groups: list[str] | None) -> None:
    with pytest.raises(LockError, match=r"there is no (extra|group) 'x'") as caught:
        select(lock(extras=("cli",), groups=("dev",)), LINUX, extras, groups)
    assert caught.value.hint in ("it has cli", "it has dev")


def test_a_lock_for_other_pythons_is_refused() -> None:
    with pytest.raises(
        NoMatchingArtifactError, match=r"uv.lock: the lock is for Python >=3.13, not for 3.12.1"
    ):
        select(lock(requires_python=">=3.13"), LINUX)
    with pytest.raises(NoMatchingArtifactError, match=r"demo==1.0 is for Python >=3.13"):
        select(lock(Package(name="demo", version="1.0", requires_python=">=3.13", digests=(SHA,))), LINUX)


def test_a_python_without_its_patch_release_takes_what_any_of_them_does() -> None:
    text = (
        f"x==1; python_full_version<'3.11.4' --hash={SHA}\ny==1; python_full_version>='3.11.4' --hash={SHA}\n"
    )
    packages = parse("requirements.txt", text).packages
    filled = lock(*(Package(name=p.name, version="1", marker=p.marker, artifacts=(
        Artifact(filename=f"{p.name}-1.tar.gz", digests=(SHA,)),)) for p in packages))  # fmt: skip
    assert [c.package.name for c in select(filled, Target("3.11")).choices] == ["x", "y"]
    assert [c.package.name for c in select(filled, Target("3.11.2")).choices] == ["x"]


def test_exported_requirements(tmp_path: Path) -> None:
    url = "https://user:secret@files.example/direct-1.0-py3-none-any.whl"
    direct = Artifact(filename="direct-1.0-py3-none-any.whl", digests=(SHA,), url=url)
    archive = Artifact(
        filename="v1.0.tar.gz", digests=(SHA,), url="https://user:secret@files.example/v1.0.tar.gz"
    )
    git = parse(
        "requirements.txt", f"g @ git+https://user:secret@git.example/g@{'c' * 40}\n-e ./here\n"
    ).packages
    text = export_requirements(
        select(
            lock(
                package("demo-1.0-py3-none-any.whl"),
                Package(name="direct", version="1.0", artifacts=(direct,), source=UrlSource(url=url)),
                Package(name="archived", artifacts=(archive,), source=UrlSource(url=archive.url or "")),
                *git,
            ),
            LINUX,
        )
    )
    assert text == (
        "# for 3.12.1/linux/amd64/glibc2.36\n"
        f"archived @ https://files.example/v1.0.tar.gz \\\n    --hash={SHA}\n"
        f"demo==1.0 \\\n    --hash={SHA}\n"
        f"direct==1.0 \\\n    --hash={SHA}\n"
        f"# ./here from ./here\n# g @ git+https://git.example/g@{'c' * 40}\n"
    )
    assert [p.name for p in parse("requirements.txt", text).packages] == ["archived", "demo", "direct"]


@pytest.mark.parametrize(
    ("version", "source"),
    [
        ("1.0 --hash=sha256:" + "0" * 64, IndexSource()),
        ("1.0\n--index-url https://me:secret@evil.example", IndexSource()),
        (None, UrlSource(url="https://files.example/demo-1.0-py3-none-any.whl?x\n--pre", subdirectory="x")),
        (None, GitSource(url="https://git.example/demo\n--pre", commit="c" * 40)),
        (None, PathSource(path="demo\n--pre")),
    ],
)
def test_nothing_can_be_smuggled_into_exported_requirements(version: str | None, source: Source) -> None:
    files = package("demo-1.0-py3-none-any.whl").artifacts
    hostile = Package(name="demo", version=version, artifacts=files, source=source)
    with pytest.raises(LockError, match=r"'demo' has a version or a place that is none") as caught:
        export_requirements(select(lock(hostile), LINUX))
    assert "secret" not in str(caught.value)


def test_a_wheel_whose_name_is_none_fits_nothing() -> None:
    """Its tags alone would fit; found by mutating locks."""
    with pytest.raises(NoMatchingArtifactError):
        best_artifact(package("[demo-1.0-py3-none-any.whl"), LINUX)
    good = "demo-1.0-py3-none-any.whl"
    assert best_artifact(package("[demo-1.0-py3-none-any.whl", good), LINUX).filename == good
