"""`imagegen build` against hand-written Dockerfiles that run pip and uv: cold, unchanged, one bump.

All begin with the same base and install one lock of about 120 wheels (benchmarks/images.in, compiled by
uv when this starts) with hashes into a virtual environment. pip compiles modules, so lockstock and uv
do, too; a second cold run is without. The Dockerfiles are built with BuildKit where it is, as is said
beside their names, and their wheels come over HTTP from the mirror's own static tree on this host, which
is faster than any index; lockstock's image holds the wheels too and needs no network. `push` goes on
until the image can be pulled from a registry, which has the base, and so does `push-bump`, where the image
before the bump is there, too; there lockstock's image is also shown without the wheels, as those of the
Dockerfiles are. Bytes are what a registry is sent, and a puller fetches, after the bump.

    python -m benchmarks.build [cold] [push] [unchanged] [bump] [push-bump] [travel]     all by default
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.images import DOCKERFILES, NAME, PLAIN, Project, contestants, forget, prune, run, served
from benchmarks.paired import compare, rounds
from benchmarks.pushed import HOST, push, push_bump, travel


def cold(project: Project) -> None:
    compare("cold, compiled", contestants(project, NAME, cold=True), rounds())
    compare("cold, not compiled", contestants(project, PLAIN, cold=True), rounds())


def unchanged(project: Project) -> None:
    for contestant in contestants(project, NAME, cold=False):
        run(*contestant.command)
    compare("unchanged", contestants(project, NAME, cold=False), rounds())


def bump(project: Project) -> None:
    """Time a lock that was never built, in each round and for both of lockstock's places."""
    found = contestants(project, NAME, cold=False)
    for contestant in found:
        run(*contestant.command)
    found[0].prepare = found[1].prepare = project.bumps()
    compare("one package bumped", found, rounds())


TABLES = {one.__name__.replace("_", "-"): one for one in (cold, push, unchanged, bump, push_bump, travel)}


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(TABLES)):
        sys.exit(f"no table is called {', '.join(unknown)}; there are {', '.join(TABLES)}")
    with tempfile.TemporaryDirectory() as folder:
        os.umask(0o022)
        project = Project(Path(folder))
        project.use(project.lock)
        run(*project.imagegen("build", NAME))
        with served(project.mirror / "tree" / "current") as port:
            project.write_contexts(port)
            for name in names or TABLES:
                TABLES[name](project)
                project.use(project.lock)
    forget([f"lockstock/{NAME}*", f"{HOST}/{NAME}-*", *(f"{NAME}-{kind}" for kind in DOCKERFILES)])
    prune()


if __name__ == "__main__":
    main(sys.argv[1:])
