"""What clients of BuildKit print: recorded from docker 20.10 and from buildx 0.13, and made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.engines.plain import PlainProgress
from imagegen.live import Silent

OLD = """\
#1 [internal] load remote build context
#1 sha256:9daff78cb949ed1b1e51a61d31184f3780117d0f7a58c0e3f22ebb851b5f4b24
#1 DONE 0.0s

#4 [wheels 1/2] FROM docker.io/lockstock/base:bookworm-704c6281fc62
#4 sha256:f56d3762d04dae160ef950d3316e909831af371356fb1717a906dc3f41ad7760
#4 DONE 0.0s

#6 [wheels 2/2] RUN echo one &&     echo hello
#6 0.054 one

#5 [stage-1 2/4] COPY rootfs/ /
#5 CACHED

#6 [wheels 2/2] RUN echo one &&     echo hello
#6 0.055 #5 ERROR: not at all
#6 0.056
#6 ERROR: executor failed running [/bin/sh -c echo one]: exit code: 3

#5 [stage-1 2/4] COPY rootfs/ /
#5 ERROR: context canceled
------
 > [wheels 2/2] RUN echo one &&     echo hello:
------
executor failed running [/bin/sh -c echo one]: exit code: 3
"""
UNREADABLE = """\
#0 building with "default" instance using docker driver

#1 [internal] load remote build context
#1 DONE 0.0s
Dockerfile:1
--------------------
   1 | >>> FRM base
--------------------
ERROR: failed to solve: dockerfile parse error on line 1: unknown instruction: FRM
"""
BROKEN = """\
ERROR: BuildKit is enabled but the buildx component is missing or broken.
       Install the buildx component to build images with BuildKit:
       https://docs.example/go/buildx/
"""
WHOLE = """\
#8 [4/4] RUN true
#8 DONE 0.1s

#9 exporting to image
#9 exporting layers 0.0s done
"""


class Noted(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.details: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)


def read(text: str) -> tuple[Noted, PlainProgress]:
    noted = Noted()
    progress = PlainProgress(noted)
    for line in text.splitlines():
        progress.take(line)
    return noted, progress


def test_a_step_that_fails_beside_another(capfd: pytest.CaptureFixture[str]) -> None:
    noted, progress = read(OLD)
    error = progress.failure("app:1", 1)

    assert noted.steps == [
        "  wheels 1/2 FROM docker.io/lockstock/base:bookworm-704c6281fc62",
        "  wheels 2/2 RUN echo one && echo hello",
        "  2/4 COPY rootfs/ /",
    ]
    assert error.reason == "executor failed running [/bin/sh -c echo one]: exit code: 3"
    assert error.where == "app:1, step wheels 2/2 RUN echo one && echo hello"
    assert capfd.readouterr().err.splitlines() == ["  │ one", "  │ #5 ERROR: not at all"]
    assert {"one", "CACHED"} <= set(noted.details)


def test_a_dockerfile_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    error = read(UNREADABLE)[1].failure("app:1", 1)

    assert error.where == "app:1"
    assert error.reason == "failed to solve: dockerfile parse error on line 1: unknown instruction: FRM"
    assert "  │    1 | >>> FRM base" in capfd.readouterr().err.splitlines()


def test_a_client_that_cannot() -> None:
    said = "BuildKit is enabled but the buildx component is missing or broken."
    assert read(BROKEN)[1].failure("app:1", 1).reason == said


def test_the_making_of_the_image_is_a_step() -> None:
    assert read(WHOLE)[0].steps == ["  4/4 RUN true", "  exporting to image"]


def test_one_that_says_nothing() -> None:
    assert read("")[1].failure("app:1", 137).reason == "docker ended with 137"


@given(st.lists(st.text() | st.from_regex(r"#\d (\[|ERROR|DONE|\d\.\d|sha256:).*")))
def test_any_lines(lines: list[str]) -> None:
    progress = PlainProgress(Silent())
    for line in lines:
        progress.take(line)

    assert progress.failure("app:1", 1).reason
