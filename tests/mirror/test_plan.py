"""What a refresh has to fetch, in which order, and how much of it at a time."""

from __future__ import annotations

import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from lockfiles.model import Artifact, Digest, Package
from lockfiles.select import Choice, Selection
from lockfiles.target import Target
from mirror.plan import Wanted, make_plan
from tests.index_server import Answer, IndexServer
from tests.project import Project
from tests.wheels import make_wheel


def selection(*files: tuple[str, int | None]) -> Selection:
    choices = []
    for name, size in files:
        sha256 = Digest("sha256", name.encode().hex().ljust(64, "0"))
        artifact = Artifact(filename=f"{name}-1.0-py3-none-any.whl", digests=(sha256,), size=size)
        package = Package(name=name, version="1.0", artifacts=(artifact,))
        choices.append(Choice(package=package, artifact=artifact))
    return Selection(target=Target("3.11"), choices=tuple(choices))


def names(*wanted: Wanted) -> list[str]:
    return [each.package.name for each in wanted]


def test_each_file_once_the_largest_first_and_what_is_held_not_at_all() -> None:
    first, second = selection(("a", 1), ("b", 300), ("c", None)), selection(("d", 20), ("b", 300), ("e", 20))

    def held(wanted: Wanted) -> str | None:
        return "f" * 64 if wanted.package.name == "d" else None

    plan = make_plan((first, second), held)
    assert names(*plan.fetch) == ["b", "e", "a", "c"]
    assert [(wanted.package.name, sha256) for wanted, sha256 in plan.keep] == [("d", "f" * 64)]
    assert plan.fetch_size == 321
    assert make_plan((second, first), held) == plan


@pytest.mark.parametrize("key", ["concurrency", "per_host"])
def test_as_many_requests_at_a_time_as_are_allowed_and_no_more(
    project: Project, index: IndexServer, wheels: Path, key: str
) -> None:
    counted, now, most = threading.Lock(), 0, 0

    def slowly(answer: Answer) -> None:
        nonlocal now, most
        with counted:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with counted:
            now -= 1
        answer.send(200, answer.body or b"")

    noise = random.Random(1)
    files = [make_wheel(wheels, f"p{n}", "1.0", files={"x": noise.randbytes(1 + 1000 * n)}) for n in range(9)]
    pages = [f"/simple/p{n}/" for n in range(9)]
    index.faults = dict.fromkeys([*pages, *(f"/files/{file.name}" for file in files)], slowly)
    project.configure(mirror=f"{key} = 3")
    project.lock(*files)
    assert project.refreshed()["fetched"] == 9
    assert most <= 3

    index.requests.clear()  # where they lie is known now, so all of them wait for their turns
    shutil.rmtree(project.layout.store.root)
    assert project.refreshed()["fetched"] == 9
    assert most == 3
    assert set(index.fetched()[:3]) == {file.name for file in files[-3:]}


def test_a_file_is_fetched_while_others_are_still_looked_for(
    project: Project, index: IndexServer, wheels: Path
) -> None:
    came = threading.Event()

    def told(answer: Answer) -> None:
        came.set()
        answer.send(200, answer.body or b"")

    def late(answer: Answer) -> None:
        answer.send(200 if came.wait(20) else 500, answer.body or b"")

    first, last = make_wheel(wheels, "a", "1.0"), make_wheel(wheels, "b", "1.0")
    index.faults = {f"/files/{first.name}": told, "/simple/b/": late}
    project.environment["PIP_RETRIES"] = "0"
    project.environment["PIP_DEFAULT_TIMEOUT"] = "30"
    project.lock(first, last)
    report = project.refreshed()
    assert (report["fetched"], report["fetched_size"]) == (2, first.stat().st_size + last.stat().st_size)


def test_what_was_begun_for_a_lock_that_cannot_be_met_is_in_nobodys_way(
    project: Project, index: IndexServer, wheels: Path
) -> None:
    good, lost = make_wheel(wheels, "a", "1.0"), make_wheel(wheels, "b", "1.0")
    begun = threading.Event()

    def stuck(answer: Answer) -> None:
        begun.set()
        time.sleep(60)

    def missing(answer: Answer) -> None:
        begun.wait(20)
        answer.send(404)

    index.faults = {f"/files/{good.name}": stuck, "/simple/b/": missing}
    project.environment["PIP_DEFAULT_TIMEOUT"] = "60"
    project.lock(good, lost)
    begin = time.monotonic()
    ended = project.mirror("refresh")
    assert (ended.returncode, ended.stderr.count("error:")) == (21, 1), ended.stderr
    assert "no index has a package of this name" in ended.stderr
    assert time.monotonic() - begin < 50
    assert not list(project.layout.store.incoming.iterdir())
    index.faults.clear()
    assert project.refreshed()["fetched"] == 2
