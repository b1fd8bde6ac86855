"""Parses a lock of 1,000 packages and 20,000 files and selects for four targets, paired with uv.

Prints the median of five runs of each, and their ratio; each run is a process of its own, ours timed
within, since importing is not its work. uv does less with the lock (`uv export --frozen` of one
requirements file for all targets), and is a native program: it is the yardstick, not the rival.

    python benchmarks/parse.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import perf_counter

from lockfiles.formats import parse
from lockfiles.select import select
from lockfiles.target import Target

PACKAGES, WHEELS, RUNS = 1000, 19, 5
TARGETS = [Target.parse(f"3.{minor}/linux/{arch}") for minor in (11, 13) for arch in ("amd64", "arm64")]
PLATFORMS = [
    "manylinux_2_17_x86_64",
    "manylinux_2_17_aarch64",
    "musllinux_1_2_x86_64",
    "macosx_11_0_arm64",
    "win_amd64",
]
UV = str(Path(sys.executable).with_name("uv"))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "uv.lock").write_text("\n".join(lock_lines()))
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "big"\nversion = "1"\nrequires-python = ">=3.10"\n'
            f"dependencies = {[f'package-{number}' for number in range(PACKAGES)]}\n"
        )
        ours = median(parse_in_a_process(folder) for _ in range(RUNS))
        theirs = median(timed(lambda: export(folder)) for _ in range(RUNS))
    print(f"lockstock: parse and select for {len(TARGETS)} targets  {ours:.3f} s")
    print(f"uv export --frozen                            {theirs:.3f} s")
    print(f"ratio                                         {ours / theirs:.2f}")


def parse_in_a_process(folder: Path) -> float:
    """Give the time of a run with nothing cached, in seconds."""
    command = [sys.executable, __file__, str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_and_select(folder: Path) -> None:
    """Do what a refresh does with a lock."""
    lock = parse("uv.lock", (folder / "uv.lock").read_text())
    for target in TARGETS:
        assert len(select(lock, target).choices) == PACKAGES


def export(folder: Path) -> None:
    """Let uv read the same lock and write requirements."""
    command = [UV, "export", "--frozen", "--offline", "-q", "-o", "out.txt"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def timed(work: Callable[[], None]) -> float:
    """Give the time that work takes, in seconds."""
    start = perf_counter()
    work()
    return perf_counter() - start


def lock_lines() -> Iterator[str]:
    """Write a uv.lock: packages with an sdist and wheels for Pythons and platforms, in chains of ten."""
    yield 'version = 1\nrevision = 3\nrequires-python = ">=3.10"\n'
    yield '[[package]]\nname = "big"\nversion = "1"\nsource = { virtual = "." }\ndependencies = ['
    yield from (f'    {{ name = "package-{number}" }},' for number in range(PACKAGES))
    yield "]\n\n[package.metadata]\nrequires-dist = ["
    yield from (f'    {{ name = "package-{number}" }},' for number in range(PACKAGES))
    yield "]\n"
    for number in range(PACKAGES):
        yield from package_lines(number)


def package_lines(number: int) -> Iterator[str]:
    stem = f"package_{number}-1.{number}"
    yield f'[[package]]\nname = "package-{number}"\nversion = "1.{number}"'
    yield 'source = { registry = "https://index.example/simple" }'
    if number % 10:
        yield "dependencies = ["
        marker = f"python_full_version < '3.{20 + number % 7}'"
        yield f'    {{ name = "package-{number - 1}", marker = "{marker}" }},'
        yield "]"
    yield f"sdist = {file(f'{stem}.tar.gz')}\nwheels = ["
    tags = [f"cp3{minor}-cp3{minor}-{platform}" for minor in (10, 11, 12, 13) for platform in PLATFORMS]
    yield from (f"    {file(f'{stem}-{tag}.whl')}," for tag in tags[:WHEELS])
    yield "]\n"


def file(name: str) -> str:
    digest = sha256(name.encode()).hexdigest()
    url = f"https://files.example/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{name}"
    return (
        f'{{ url = "{url}", hash = "sha256:{digest}", size = 12345, upload-time = "2026-01-02T03:04:05Z" }}'
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(timed(lambda: parse_and_select(Path(sys.argv[1]))))
    else:
        main()
