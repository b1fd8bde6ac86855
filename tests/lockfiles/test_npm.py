"""npm's locks and their kin: sources, names, integrity, platforms, and what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from lockfiles.errors import LockError, MissingHashError, NoMatchingArtifactError
from lockfiles.formats import parse
from lockfiles.model import GitSource, IndexSource, Lock, Package, PathSource, UrlSource
from lockfiles.platforms import Platforms
from lockfiles.select import select
from lockfiles.target import Target

SHA512 = "sha512-" + "A" * 86 + "=="
SHA1 = "sha1-" + "A" * 27 + "="
COMMIT = "0123456789abcdef0123456789abcdef01234567"
X64 = Target("3.11")
MANY = 1 << 20
ARM_MUSL = Target("3.11", "aarch64", "musl", "1.2")


def lock(packages: dict[str, Any], version: int = 3) -> Lock:
    return parse("package-lock.json", json.dumps({"lockfileVersion": version, "packages": packages}))


def entry(place: str = "a", **fields: Any) -> Package:
    values = {"version": "1.0.0", "integrity": SHA512, **fields}
    (package,) = lock({f"node_modules/{place}": values}).packages
    return package


def names(found: Lock, target: Target = X64, **choice: Any) -> list[str]:
    return [choice.package.label for choice in select(found, target, **choice).choices]


@pytest.mark.parametrize(
    ("resolved", "source"),
    [
        (None, IndexSource()),
        ("https://registry.example/a/-/a-1.0.0.tgz", IndexSource()),
        ("https://files.example/some.tgz", UrlSource(url="https://files.example/some.tgz")),
        (f"git+ssh://git@forge.example/x/a.git#{COMMIT}",
         GitSource(url="ssh://git@forge.example/x/a.git", commit=COMMIT)),
        (f"github:x/a#{COMMIT}", GitSource(url="https://github.com/x/a.git", commit=COMMIT)),
        ("file:../a-1.0.0.tgz", PathSource(path="../a-1.0.0.tgz")),
    ],
)  # fmt: skip
def test_sources(resolved: str | None, source: object) -> None:
    assert entry(**({"resolved": resolved} if resolved else {})).source == source


def test_an_alias_is_the_package_that_it_stands_for() -> None:
    assert entry("old", name="@scope/new").name == "@scope/new"
    text = {
        "lockfileVersion": 1,
        "dependencies": {"old": {"version": "npm:@scope/new@2.0.0", "integrity": SHA512}},
    }
    assert names(parse("package-lock.json", json.dumps(text))) == ["@scope/new@2.0.0"]


def test_the_own_project_links_and_bundles_are_not_fetched() -> None:
    packages = {
        "": {"name": "app"},
        "packages/w": {"version": "1.0.0"},
        "node_modules/w": {"resolved": "packages/w", "link": True},
        "node_modules/a": {"version": "1.0.0", "integrity": SHA512},
        "node_modules/a/node_modules/b": {"version": "1.0.0", "inBundle": True},
    }
    assert names(lock(packages)) == ["a@1.0.0"]
    nested = {"a": {"version": "1.0.0", "integrity": SHA512,
                    "dependencies": {"b": {"version": "1.0.0", "bundled": True}}}}  # fmt: skip
    assert names(parse("package-lock.json", json.dumps({"lockfileVersion": 1, "dependencies": nested}))) == [
        "a@1.0.0"
    ]


def test_several_versions_lie_side_by_side() -> None:
    versions = {"a": "1.0.0", "b": "1.0.0", "b/node_modules/a": "2.0.0"}
    packages = {f"node_modules/{p}": {"version": v, "integrity": SHA512} for p, v in versions.items()}
    assert names(lock(packages)) == ["a@1.0.0", "a@2.0.0", "b@1.0.0"]


def test_development_is_a_group() -> None:
    found = lock({"node_modules/a": {"version": "1.0.0", "integrity": SHA512, "dev": True}})
    assert names(found) == ["a@1.0.0"]
    assert names(found, groups=()) == []


@pytest.mark.parametrize(
    ("fields", "x64", "arm"),
    [
        ({"os": ["linux"]}, True, True),
        ({"os": ["!win32"]}, True, True),
        ({"os": ["!linux"]}, False, False),
        ({"os": "darwin"}, False, False),
        ({"cpu": ["x64", "ia32"]}, True, False),
        ({"libc": ["musl"]}, False, True),
        ({"os": ["any"], "cpu": ["!arm64"]}, True, False),
    ],
)
def test_platforms(fields: dict[str, Any], x64: bool, arm: bool) -> None:
    values = {"version": "1.0.0", "integrity": SHA512, **fields}
    optional = lock({"node_modules/a": {**values, "optional": True}})
    assert [bool(names(optional, target)) for target in (X64, ARM_MUSL)] == [x64, arm]
    needed = lock({"node_modules/a": values})
    for target, fits in ((X64, x64), (ARM_MUSL, arm)):
        if not fits:
            with pytest.raises(NoMatchingArtifactError, match=r"a@1\.0\.0 is for"):
                select(needed, target)


def test_platforms_are_told() -> None:
    assert str(Platforms(os=("linux", "darwin"), libc=("glibc",))) == "linux,darwin/any/glibc"


def test_sha1_is_not_enough_unless_it_is_allowed() -> None:
    found = lock({"node_modules/a": {"version": "1.0.0", "integrity": SHA1}})
    with pytest.raises(MissingHashError) as caught:
        select(found, X64)
    assert 'allow_sha1 = ["a"]' in caught.value.hint
    with pytest.raises(MissingHashError):
        select(found, X64, allow_sha1=["b"])
    assert names(found, allow_sha1=["a"]) == ["a@1.0.0"]


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../b", "%2e%2e", "@a%2fb", "@a/..", "@../a", ".hidden", "\N{CYRILLIC SMALL LETTER A}bc",
     "a\0", "a b", "@a/b/c", "a\\b", "node_modules", "x" * 215, "a\u200b"],
)  # fmt: skip
def test_names_that_no_registry_has(name: str) -> None:
    with pytest.raises(LockError, match="not the name of an npm package"):
        entry("a", name=name)


def test_names_that_differ_in_case_only() -> None:
    packages = {
        f"node_modules/{name}": {"version": "1.0.0", "integrity": SHA512}
        for name in ("JSONStream", "jsonstream")
    }
    with pytest.raises(LockError, match="differ in case only"):
        lock(packages)
    assert entry("JSONStream").label == "JSONStream@1.0.0"


@pytest.mark.parametrize("version", ["../1", "1", "1.0.0/x", "1.0.0 ", "latest", "1.0.0-\N{SNOWMAN}"])
def test_versions_that_npm_does_not_write(version: str) -> None:
    with pytest.raises(LockError, match="not a version"):
        entry(version=version)


@pytest.mark.parametrize(
    "resolved", ["ftp://x.example/a.tgz", "git+https://forge.example/x.git#main", "https://x.example/%2e%2e"]
)
def test_places_that_are_refused(resolved: str) -> None:
    with pytest.raises(LockError):
        entry(resolved=resolved)


@pytest.mark.parametrize("integrity", ["sha512-x", "sha999-AAAA", "nothing", f"{SHA512} sha512-{'B' * 86}=="])
def test_integrity_that_cannot_be(integrity: str) -> None:
    with pytest.raises(LockError, match=r"node_modules/a"):
        entry(integrity=integrity)


@pytest.mark.parametrize(
    ("filename", "text"),
    [
        ("package-lock.json", '{"lockfileVersion": 4}'),
        ("package-lock.json", "{}"),
        ("pnpm-lock.yaml", "lockfileVersion: 5.4\n"),
        ("pnpm-lock.yaml", "lockfileVersion: '7.0'\n"),
        ("yarn.lock", "__metadata:\n  version: 99\n"),
        ("bun.lock", '{"lockfileVersion": 9, "workspaces": {}}'),
    ],
)
def test_other_versions_of_locks(filename: str, text: str) -> None:
    with pytest.raises(LockError, match="known"):
        parse(filename, text)


@pytest.mark.parametrize(
    ("filename", "text"),
    [
        ("package-lock.json", '{"lockfileVersion": 3, "packages": ' + '{"a": ' * MANY),
        ("package-lock.json", '{"lockfileVersion": 1, "dependencies": ' + '{"a": {"dependencies": ' * MANY),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\npackages: " + "{a: " * MANY),
        ("yarn.lock", "__metadata:\n  version: 8\nx: " + "[" * MANY),
        ("bun.lock", '{"lockfileVersion": 1, "packages": ' + "[" * MANY),
    ],
    ids=["npm", "npm 1", "pnpm", "berry", "bun"],
)
def test_megabytes_of_nesting(filename: str, text: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(LockError, match="nest"):
        parse(filename, text)
    assert time.perf_counter() - begun < 5


def test_a_lock_that_lacks_platforms_is_named() -> None:
    optional = {"optionalDependencies": {"@e/linux-x64": "1.0.0", "@e/win32-x64": "1.0.0"}}
    packages = {
        "node_modules/e": {"version": "1.0.0", "integrity": SHA512, **optional},
        "node_modules/@e/linux-x64": {"version": "1.0.0", "integrity": SHA512, "optional": True},
    }
    with pytest.raises(
        LockError, match=r"optional packages are not in the lock: @e/win32-x64 \(of e\)"
    ) as caught:
        lock(packages)
    assert "remove node_modules" in caught.value.hint
    packages["node_modules/e/node_modules/@e/win32-x64"] = {"version": "1.0.0", "integrity": SHA512}
    assert len(lock(packages).packages) == 3


def test_yarn_1_knows_sha1_from_the_fragment() -> None:
    url = "https://r.example/a/-/a-1.0.0.tgz"
    text = f'# yarn lockfile v1\n\n"a@^1.0.0", a@1:\n  version "1.0.0"\n  resolved "{url}#{"0" * 40}"\n'
    (package,) = parse("yarn.lock", text).packages
    assert [digest.algorithm for digest in package.artifacts[0].digests] == ["sha1"]
    assert package.artifacts[0].url == url


@pytest.mark.parametrize("line", ["a@1", "a:", "@:"])
def test_yarn_1_that_is_not_one(line: str) -> None:
    with pytest.raises(LockError):
        parse("yarn.lock", f"# yarn lockfile v1\n\n{line}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a: &x [1]\nb: *x\n", "aliases"), ("a: [", "not valid YAML"), ("- 1", "not a YAML mapping"),
     ("a: 1\na: 2\n", "keys"), ("{[a]: 1}", "keys"), ("a: 1\n---\nb: 1\n", "several documents")],
)  # fmt: skip
def test_yaml_that_no_lock_is(text: str, reason: str) -> None:
    with pytest.raises(LockError, match=reason):
        parse("pnpm-lock.yaml", text)


def test_bun_sources() -> None:
    packages = {
        "a": ["@s/a@1.0.0", "https://r.example/a.tgz", {}, SHA512],
        "w": ["w@workspace:packages/w"],
        "g": [f"g@github:x/g#{COMMIT[:7]}", {}, f"x-g-{COMMIT}"],
        "m": ["m@1.0.0", "", {"os": ["linux"], "cpu": "arm64"}, SHA512],
    }
    text = json.dumps({"lockfileVersion": 1, "workspaces": {}, "packages": packages})
    found = parse("bun.lock", text.replace("}}", "},}"))
    assert [package.label for package in found.packages] == ["@s/a@1.0.0", "g", "m@1.0.0"]
    assert found.packages[1].source == GitSource(url="https://github.com/x/g.git", commit=COMMIT)
    assert names(found) == ["@s/a@1.0.0"]
