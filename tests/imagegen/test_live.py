from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from imagegen.live import live

SAID = "building [red]x[/red] :warning: \x1b[2J"
PROGRAM = f"""
from imagegen.live import live
import sys
with live() as progress:
    progress.step({SAID!r})
    progress.detail("going on")
print("rich" in sys.modules)
"""


def test_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with live() as progress:
        progress.step(SAID)
        progress.detail("going on")

    assert capsys.readouterr().err == "building [red]x[/red] :warning: \N{REPLACEMENT CHARACTER}[2J\n"


def test_rich_is_for_terminals_only() -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", PROGRAM]

    plain = subprocess.run(words, capture_output=True, text=True, check=True)
    shown = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True)

    os.close(theirs)
    assert (plain.stdout, shown.stdout) == ("False\n", "True\n")
    assert b"building [red]x[/red]" in os.read(ours, 4096)
    os.close(ours)
