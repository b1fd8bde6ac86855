from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imagegen.spec import (
    DebianBase,
    DockerBase,
    ImageSpec,
    OciBase,
    RegistryBase,
    choose_target,
    find_image,
    load_images,
    machine_of,
)
from lockfiles.errors import ConfigError
from lockfiles.target import Target
from mirror import config as configuration
from mirror.config import Config

HEAD = """\
[locks.app]
path = "requirements.txt"
[locks.tests]
path = "requirements.txt"
"""
FULL = """\
[images.dev]
base = "debian:bookworm"
locks = ["tests", "app"]
apt = ["less", "git", "less"]
python = "3.11"
user = "worker"
env = { B = "2", A = "1" }
checks = ["pytest -q"]
project = "code"
skip_imports = ["pkg.gui"]
wheels = false
"""


def load(folder: Path, text: str) -> Config:
    (folder / "requirements.txt").write_text("")
    (folder / "lockstock.toml").write_text(HEAD + text)
    return configuration.load(folder / "lockstock.toml")


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()

    assert load_images(load(tmp_path, FULL)) == (
        ImageSpec(
            name="dev",
            base=DebianBase(suite="bookworm", packages=("git", "less")),
            locks=("app", "tests"),
            python="3.11",
            user="worker",
            env={"A": "1", "B": "2"},
            wheels=False,
            checks=("pytest -q",),
            project=tmp_path / "code",
            skip_imports=("pkg.gui",),
        ),
    )


def test_defaults(tmp_path: Path) -> None:
    image = find_image(
        load(tmp_path, '[images.dev]\nbase = "docker:registry.example:5000/a/b:1"\nlocks = ["app"]\n'), "dev"
    )

    assert image == ImageSpec(
        name="dev", base=DockerBase(reference="registry.example:5000/a/b:1"), locks=("app",), user="sandbox"
    )


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("registry:r.example/a/b:1", RegistryBase(reference="r.example/a/b:1")),
        (f"registry:r.example/a@sha256:{'0' * 64}", RegistryBase(reference=f"r.example/a@sha256:{'0' * 64}")),
        ("oci:images", OciBase(path=Path("images"))),
        ("oci:../images:1.0", OciBase(path=Path("../images"), tag="1.0")),
        ("oci:/a:b/images", OciBase(path=Path("/a:b/images"))),
    ],
)
def test_bases_that_are_images(tmp_path: Path, text: str, base: OciBase | RegistryBase) -> None:
    found = find_image(load(tmp_path, f'[images.dev]\nbase = "{text}"\nlocks = ["app"]\n'), "dev").base

    wanted = replace(base, path=tmp_path / base.path) if isinstance(base, OciBase) else base
    assert found == wanted


START = '[images.dev]\nlocks = ["app"]\n'
DEBIAN = f'{START}base = "debian:bookworm"\n'
FAULTS = {
    "an unknown key": (f"{DEBIAN}bsae = 1\n", 8, "images.dev.bsae: unknown key", "did you mean 'base'?"),
    "no base": (START, 5, "images.dev: 'base' is missing", ""),
    "no locks": ('[images.dev]\nbase = "debian:bookworm"\n', 5, "images.dev: 'locks' is missing", ""),
    "an empty list of locks": (
        '[images.dev]\nbase = "debian:x"\nlocks = []\n',
        7,
        "at least one lock",
        "app, tests",
    ),
    "an unknown lock": (
        '[images.dev]\nbase = "debian:x"\nlocks = ["ap"]\n',
        7,
        "there is no lock 'ap'",
        "app, tests",
    ),
    "a wrong type": (
        f"{DEBIAN}checks = 'pytest'\n",
        8,
        "images.dev.checks: must be an array, not a string",
        "",
    ),
    "a wrong type within": (f"{DEBIAN}checks = [1]\n", 8, "images.dev.checks[0]: must be a string", ""),
    "a base of no kind": (f'{START}base = "bookworm"\n', 7, "images.dev.base: is not a base", "debian:SUITE"),
    "a base with an option": (f'{START}base = "docker:--pull x"\n', 7, "is not a base", "docker:REFERENCE"),
    "a suite that leads elsewhere": (f'{START}base = "debian:../x"\n', 7, "is not a base", ""),
    "a registry without a host": (
        f'{START}base = "registry:python:3"\n',
        7,
        "is not a base",
        "registry:HOST/NAME",
    ),
    "a layout of nothing": (f'{START}base = "oci:"\n', 7, "is not a base", "oci:DIR:TAG"),
    "a layout with a line end": (f'{START}base = "oci:a\\nb"\n', 7, "is not a base", ""),
    "apt on a layout": (f'{START}base = "oci:x"\napt = ["less"]\n', 8, "only for debian: bases", ""),
    "an unknown compression": (f'{DEBIAN}compression = "xz"\n', 8, "'xz' is none", "gzip, or zstd"),
    "apt on a docker base": (f'{START}base = "docker:x"\napt = ["less"]\n', 8, "only for debian: bases", ""),
    "a package that is an option": (
        f'{DEBIAN}apt = ["--x"]\n',
        8,
        "'--x' is not the name of a Debian package",
        "",
    ),
    "a missing folder": (
        f'{DEBIAN}project = "none"\n',
        8,
        "images.dev.project: there is no folder",
        "relative",
    ),
    "root": (f'{DEBIAN}user = "root"\n', 8, "'root' cannot be the user", ""),
    "a user with a colon": (f'{DEBIAN}user = "a:b"\n', 8, "'a:b' cannot be the user", ""),
    "PATH": (f"{DEBIAN}env = {{ PATH = '/x' }}\n", 8, "'PATH' cannot be set here", ""),
    "a variable with a space": (f'{DEBIAN}env = {{ "A B" = "1" }}\n', 8, "'A B' cannot be set here", ""),
    "a value with a line end": (f'{DEBIAN}env = {{ A = "1\\nRUN x" }}\n', 8, "control characters", ""),
    "an empty check": (f'{DEBIAN}checks = [" "]\n', 8, "must be command lines", ""),
    "a name with a slash": (
        '[images."a/b"]\nbase = "debian:x"\nlocks = ["app"]\n',
        5,
        "'a/b' is not a name",
        "",
    ),
}


@pytest.mark.parametrize(("text", "line", "reason", "hint"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_say_where(tmp_path: Path, text: str, line: int, reason: str, hint: str) -> None:
    config = load(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load_images(config)

    assert caught.value.where == f"{tmp_path}/lockstock.toml:{line}"
    assert reason in caught.value.reason
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_platform_is_that_of_a_target(tmp_path: Path) -> None:
    config = replace(load(tmp_path, DEBIAN), targets=(Target("3.11", "aarch64"), Target("3.11")))

    assert machine_of(config, "linux/arm64") == "aarch64"
    with pytest.raises(ConfigError, match="no configured target is for linux/riscv64"):
        machine_of(config, "linux/riscv64")


def test_an_unknown_image_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no image 'prod'") as caught:
        find_image(load(tmp_path, DEBIAN), "prod")

    assert "images there: dev" in caught.value.hint


def test_the_first_target_that_fits_the_host_is_chosen(tmp_path: Path) -> None:
    config = replace(
        load(tmp_path, DEBIAN),
        targets=(Target("3.11", "aarch64"), Target("3.11"), Target("3.12"), Target("3.13.1")),
    )
    spec = find_image(config, "dev")

    assert choose_target(config, spec, "x86_64") == Target("3.11")
    assert choose_target(config, spec, "aarch64") == Target("3.11", "aarch64")
    assert choose_target(config, replace(spec, python="3.12"), "x86_64") == Target("3.12")
    assert choose_target(config, replace(spec, python="3.13"), "x86_64") == Target("3.13.1")
    with pytest.raises(ConfigError, match=r"no configured target is Python 3\.12 on aarch64"):
        choose_target(config, replace(spec, python="3.12"), "aarch64")


@pytest.mark.parametrize("name", ["a..b", "a.-b", "a___b", "a_.b", "a-_b"])
def test_a_name_that_no_registry_takes(tmp_path: Path, name: str) -> None:
    config = load(tmp_path, f'[images."{name}"]\nbase = "debian:bookworm"\nlocks = ["app"]\n')

    with pytest.raises(ConfigError, match="cannot name an image"):
        load_images(config)


@pytest.mark.parametrize("name", ["a.b", "a_b", "a__b", "a---b", "a.b_c-d"])
def test_a_name_that_registries_take(tmp_path: Path, name: str) -> None:
    config = load(tmp_path, f'[images."{name}"]\nbase = "debian:bookworm"\nlocks = ["app"]\n')

    assert [spec.name for spec in load_images(config)] == [name]
