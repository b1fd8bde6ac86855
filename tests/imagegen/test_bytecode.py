"""Bytecode: equal each time, used as it is, and an edited module is seen at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen import bytecode
from imagegen.archive import Entry
from imagegen.bytecode import Compiler, HostPython
from imagegen.engines.root import run_bounded
from imagegen.errors import BuildError
from imagegen.oci import EPOCH

MINOR = ".".join(map(str, sys.version_info[:2]))
SOURCE = b"x = {'a', 'b', 'c'}\nVALUE = 1\n"


def compiler() -> Compiler:
    python = HostPython.find(MINOR)
    assert python
    return Compiler(python, MINOR)


def compiled(*entries: Entry) -> dict[str, bytes]:
    return {
        entry.path: entry.content
        for entry in compiler().compiled(entries)
        if isinstance(entry.content, bytes)
    }


def test_a_python_of_this_host_compiles_the_same_each_time() -> None:
    module, broken = Entry(path="lib/m.py", content=SOURCE), Entry(path="lib/broken.py", content=b"def (:\n")
    name = f"lib/__pycache__/m.cpython-{MINOR.replace('.', '')}.pyc"

    first, second = compiled(module, broken), compiled(broken, module)

    assert first == second
    assert list(first) == [name]
    assert compiler().build == f"host {sys.version}"


def test_a_module_that_nests_deeper_than_bytecode_may_has_none() -> None:
    deep = Entry(path="lib/deep.py", content=b"f = " + b"lambda:" * 1100 + b"0\n")

    assert list(compiled(deep, Entry(path="lib/m.py", content=SOURCE))) == list(
        compiled(Entry(path="lib/m.py", content=SOURCE))
    )


def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typing.py").write_text("raise SystemExit('run')\n")
    monkeypatch.chdir(tmp_path)

    assert compiled(Entry(path="lib/m.py", content=SOURCE))


def test_a_version_that_nobody_has() -> None:
    assert HostPython.find("3.999") is None


def test_an_edited_module_is_seen_and_an_unchanged_one_is_not_compiled_again(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_bytes(SOURCE)
    os.utime(module, (EPOCH, EPOCH))
    ((name, pyc),) = compiled(Entry(path="m.py", content=SOURCE)).items()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / name).write_bytes(pyc)
    code = "import m; print(m.VALUE)"

    def ran() -> tuple[str, str]:
        words = [sys.executable, "-v", "-B", "-c", code]
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        return ended.stdout.strip(), ended.stderr

    value, said = ran()
    assert (value, "matches" in said.partition("m.cpython")[2]) == ("1", True)
    module.write_bytes(SOURCE.replace(b"VALUE = 1", b"VALUE = 2"))
    assert ran()[0] == "2"


class Hostile:
    """A Python that a base put in the place of its own."""

    build = "hostile"

    def __init__(self, script: str) -> None:
        self.words = ["/bin/sh", "-c", script]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exec cat /dev/zero", "it gave more than"),
        ("exec cat /dev/zero >&2", "not done after 2 s"),
        ("exec sleep 60", "not done after 2 s"),
        ("echo no >&2; exit 3", "does not compile: no"),
        ("kill -9 $$", "it ended with -9"),
        ("exit 0", "it ended with 0"),
        ("printf '\\1\\0\\0\\0'", "it ended with 0"),
        ("printf '\\0\\0\\0\\0\\0\\0\\0\\0'", "it ended with 0"),
        ("printf 'no bytecode'", "it ended with 0"),
    ],
)
def test_a_python_that_is_none(monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    monkeypatch.setattr(bytecode, "_LIMIT", 2)
    monkeypatch.setattr(bytecode, "_MOST_MADE", 1 << 20)

    with pytest.raises(BuildError, match=reason):
        list(Compiler(Hostile(script), MINOR).compiled([Entry(path="m.py", content=SOURCE)]))


def test_what_is_said_without_an_end_is_not_held() -> None:
    ended = run_bounded(["/bin/sh", "-c", "head -c 20000000 /dev/zero; echo the end; exit 3"])

    assert (ended.returncode, ended.stdout[-8:]) == (3, "the end\n")
    assert len(ended.stdout) < 1 << 20
