"""What a check that ended says in the report."""

from __future__ import annotations

import pytest

from imagegen.engines.model import Ran
from imagegen.verify import Step, _check


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        (0, 1.0, "said"),
        (124, 1.0, "said"),
        (124, 1800.1, "said\nnot done after 1800 s"),
        (137, 1805.2, "said\nnot done after 1800 s"),
    ],
    ids=["well", "a time-out of its own", "too long", "too long, and deaf to signals"],
)
def test_only_what_took_too_long_is_said_to(code: int, seconds: float, said: str) -> None:
    found = _check(Step(name="c", command=("c",)), Ran(code=code, output="said\n", seconds=seconds))

    assert (found.ok, found.output) == (code == 0, said)
