from __future__ import annotations

from dataclasses import replace

import pytest

from imagegen.build import check_base
from imagegen.engines.model import Facts
from imagegen.errors import ConflictError, GitPackageError, NotStockedError, UnfitBaseError
from imagegen.plan import Base, make_plan
from imagegen.spec import DockerBase, ImageSpec
from lockfiles.target import Target
from mirror.snapshot import Snapshot
from tests.imagegen.plans import ALPHA, BASE, BETA, SETUPTOOLS, SNAPSHOT, SPEC, TARGET, UV, artifact, snapshot


def plan(spec: ImageSpec = SPEC, of: Snapshot = SNAPSHOT, base: Base = BASE, templates: str = "t"):  # type: ignore[no-untyped-def]  # what make_plan gives
    return make_plan(spec, of, TARGET, base, templates=templates)


def test_only_the_lock_is_installed_and_its_companions_are_stocked() -> None:
    made = plan()

    assert made.install == (ALPHA, BETA)
    assert made.stock == (ALPHA, BETA, SETUPTOOLS, UV)
    assert made.uv == UV
    assert made.size == 400
    assert made.shell == "/bin/bash"


def test_without_tools_there_is_no_uv() -> None:
    assert plan(of=snapshot(app=(UV,), app__build=())).uv is None


def test_without_wheels_only_what_is_unpacked_is_present() -> None:
    made = plan(replace(SPEC, wheels=False))

    assert made.present == (ALPHA, BETA, UV)
    assert plan().present == plan().stock
    assert made.size == 300
    assert made.digest != plan().digest


def test_companions_of_other_locks_stay_out() -> None:
    made = plan(of=snapshot(app=(ALPHA,), other=(BETA,), other__build=(SETUPTOOLS,)))

    assert made.stock == (ALPHA,)


def test_labels_are_those_of_oci_and_the_locks_digests() -> None:
    assert plan().labels == {
        "io.lockstock.lock.app": f"sha256:{'f' * 64}",
        "io.lockstock.target": "3.11/linux/amd64/glibc2.36",
        "org.opencontainers.image.base.digest": BASE.digest,
        "org.opencontainers.image.base.name": "debian:bookworm",
        "org.opencontainers.image.description": "app: locked dependencies, offline",
        "org.opencontainers.image.title": "dev",
    }


def test_equal_content_has_one_name() -> None:
    made = plan()

    assert made == plan()
    assert made.reference == f"lockstock/dev:{made.digest[:12]}"


@pytest.mark.parametrize(
    "other",
    [
        plan(spec=replace(SPEC, name="prod")),
        plan(spec=replace(SPEC, env={})),
        plan(spec=replace(SPEC, user="worker")),
        plan(of=snapshot(app=(ALPHA,), app__build=(SETUPTOOLS,), __tools=(UV,))),
        plan(of=snapshot(app=(ALPHA, BETA), __tools=(UV,))),
        plan(of=snapshot(app=(ALPHA, BETA), app__build=(SETUPTOOLS,))),
        plan(base=replace(BASE, digest=f"sha256:{'1' * 64}")),
        plan(templates="u"),
        plan(spec=replace(SPEC, base=DockerBase(reference="x"))),
    ],
)
def test_whatever_decides_the_content_decides_the_digest(other) -> None:  # type: ignore[no-untyped-def]  # a plan
    assert other.digest != plan().digest


@pytest.mark.parametrize(
    "spec", [replace(SPEC, checks=("x",)), replace(SPEC, skip_imports=("x",))], ids=["checks", "skip_imports"]
)
def test_what_verify_does_leaves_the_digest_alone(spec: ImageSpec) -> None:
    assert plan(spec=spec).digest == plan().digest


def test_what_an_index_says_of_a_file_leaves_the_digest_alone() -> None:
    said = replace(SNAPSHOT, artifacts=tuple(
        replace(file, yanked="broken", upload_time="2026-01-01T00:00:00Z") for file in SNAPSHOT.artifacts
    ))  # fmt: skip
    assert plan(of=said).digest == plan().digest


def test_a_lock_that_is_not_stocked_is_named() -> None:
    with pytest.raises(NotStockedError, match="holds lock 'gone' not at all") as caught:
        plan(spec=replace(SPEC, locks=("app", "gone")))

    assert caught.value.hint == "run `mirror refresh`"


def test_a_target_that_is_not_stocked_is_named() -> None:
    with pytest.raises(NotStockedError, match=r"for 3\.11/linux/amd64/glibc2\.36 only, and 3\.12/"):
        make_plan(SPEC, SNAPSHOT, Target("3.12"), BASE, templates="t")


def test_two_versions_of_a_package_conflict() -> None:
    newer = artifact("alpha-2.0-py3-none-any.whl", "1")
    spec = replace(SPEC, locks=("app", "more"))

    with pytest.raises(ConflictError, match=r"want both alpha-1.0.* and alpha-2\.0"):
        plan(spec=spec, of=snapshot(app=(ALPHA,), more=(newer,)))


def test_two_files_of_one_name_conflict() -> None:
    other = replace(SETUPTOOLS, sha256="1" * 64)

    with pytest.raises(ConflictError, match="two files with this name"):
        plan(of=snapshot(app=(SETUPTOOLS,), app__build=(other,)))


def test_another_version_to_build_with_is_no_conflict() -> None:
    older = artifact("setuptools-70.0-py3-none-any.whl", "1")

    assert plan(of=snapshot(app=(SETUPTOOLS,), app__build=(older,))).install == (SETUPTOOLS,)


FACTS = Facts(
    python="3.11.2", arch="x86_64", libc="glibc", libc_version="2.36",
    git=True, venv=True, ca=True, node=False,
)  # fmt: skip


@pytest.mark.parametrize("target", [TARGET, Target("3.11.2"), Target("3.11", libc_version="2.17")], ids=str)
def test_a_base_that_fits(target: Target) -> None:
    check_base(FACTS, plan(), target)


UNFIT = {
    "another minor": (FACTS, Target("3.12"), "it has Python 3.11.2, and the target is 3.12/"),
    "another patch release": (FACTS, Target("3.11.9"), "it has Python 3.11.2"),
    "another architecture": (FACTS, Target("3.11", "aarch64"), "it is x86_64 with glibc"),
    "another libc": (FACTS, Target("3.11", libc="musl", libc_version="1.2"), "it is x86_64 with glibc"),
    "an older libc": (replace(FACTS, libc_version="2.9"), TARGET, "its glibc 2.9 is older"),
    "no venv": (replace(FACTS, venv=False, ca=False), TARGET, "it lacks venv, CA bundle"),
}


@pytest.mark.parametrize(("facts", "target", "reason"), UNFIT.values(), ids=UNFIT.keys())
def test_a_base_that_does_not_fit(facts: Facts, target: Target, reason: str) -> None:
    with pytest.raises(UnfitBaseError) as caught:
        check_base(facts, plan(), target)

    assert reason in caught.value.reason
    assert caught.value.where == "debian:bookworm"
    assert "lockstock.toml" in caught.value.hint


def test_packages_of_npm_from_git_are_refused() -> None:
    from_git = replace(artifact("left_pad-1.0.tgz", "e", ecosystem="npm"), tree="1" * 40)

    with pytest.raises(GitPackageError, match="from its git repository") as caught:
        plan(spec=replace(SPEC, locks=("web",)), of=snapshot(web=(from_git,)))

    assert (caught.value.where, caught.value.exit_code) == ("left-pad", 79)


def test_a_lock_of_npm_asks_for_node() -> None:
    wanted = plan(spec=replace(SPEC, locks=("web",)))

    check_base(replace(FACTS, node=True), wanted, TARGET)
    with pytest.raises(UnfitBaseError, match=r"it lacks Node\.js with npm, which a lock of this image needs"):
        check_base(FACTS, wanted, TARGET)
