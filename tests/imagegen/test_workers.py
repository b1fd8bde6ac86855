"""Threads that nobody waits for."""

from __future__ import annotations

import subprocess
import sys
from threading import Event

import pytest

from imagegen.workers import Workers


def test_results_and_errors_belong_to_who_asks() -> None:
    workers = Workers(2)

    found = [workers.submit(lambda number=number: 6 // number) for number in (3, 0, 2)]

    assert (found[0].result(5), found[2].result(5)) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        found[1].result(5)


def test_what_nobody_has_begun_is_forgotten() -> None:
    workers, begun, go = Workers(1), Event(), Event()
    first = workers.submit(lambda: begun.set() or go.wait(5))
    assert begun.wait(5)
    second = workers.submit(lambda: True)

    workers.close()
    go.set()

    assert first.result(5)
    assert not second.done()


def test_a_process_that_ends_does_not_wait_for_them() -> None:
    program = "import time; from imagegen.workers import Workers; Workers(1).submit(lambda: time.sleep(60))"

    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)

    assert ended.returncode == 0
