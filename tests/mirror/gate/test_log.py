"""The log: nothing of it can be changed unseen, and a killed writer costs at most an unfinished line."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.gate.audit import notes_path, split_notes, verify
from mirror.gate.errors import LogError
from mirror.gate.log import Log
from mirror.gate.note import Checkpoint, Signer

SIGNER = Signer.generate("gate.example/task")


def write(path: Path, count: int, every: int = 4) -> str:
    """Write records and seal them; gives the last note."""
    log = Log(path, SIGNER, every=every)
    for number in range(count):
        log.append({"event": "decision", "host": f"h{number}.example"})
    return log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "task.jsonl"


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_log_verifies_and_says_what_it_holds(path: Path) -> None:
    note = write(path, 10)
    seen: list[dict[str, object]] = []
    verified = verify(path, SIGNER.verifier, anchor=note, each=seen.append)
    assert (verified.records, verified.checkpoints, verified.unsealed, verified.torn) == (10, 4, 0, 0)
    assert verified.after_anchor == 0
    assert verified.note == note
    assert [record["seq"] for record in seen] == list(range(10))


def test_records_are_on_the_disk_before_they_are_signed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int]] = []
    real = os.fsync

    def fsync(file: int) -> None:
        notes = notes_path(path)
        signed = notes.read_text().count("gate.example/task\n") if notes.exists() else 0
        steps.append((Path(f"/proc/self/fd/{file}").readlink().name, signed))
        real(file)

    monkeypatch.setattr("mirror.gate.log.os.fsync", fsync)
    write(path, 5, every=4)
    steps = [step for step in steps if step[0].startswith("task.")]
    names = [path.name, notes_path(path).name]
    assert steps == [(name, signed + number) for signed in range(3) for number, name in enumerate(names)]


def test_an_empty_log_is_sealed_too(path: Path) -> None:
    note = write(path, 0)
    assert Checkpoint.parse(SIGNER.verifier.open(note)).size == 0
    assert verify(path, SIGNER.verifier, anchor=note).records == 0


def test_it_goes_on_where_it_ended(path: Path) -> None:
    first = write(path, 5)
    write(path, 3)
    verified = verify(path, SIGNER.verifier, anchor=first)
    assert (verified.records, verified.after_anchor) == (8, 3)


def test_only_one_writes(path: Path) -> None:
    log = Log(path, SIGNER)
    with pytest.raises(LogError, match="another process"):
        Log(path, SIGNER)
    log.close()
    Log(path, SIGNER).close()


def test_each_checkpoint_is_handed_on(path: Path) -> None:
    notes: list[str] = []
    log = Log(path, SIGNER, every=2, on_checkpoint=notes.append)
    for _ in range(5):
        log.append({"event": "x"})
    log.close()
    assert [Checkpoint.parse(SIGNER.verifier.open(note)).size for note in notes] == [0, 2, 4, 5]


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"h2.example", b"hX.example"))


def delete(path: Path) -> None:
    path.write_bytes(b"".join(lines(path)[:2] + lines(path)[3:]))


def delete_and_renumber(path: Path) -> None:
    kept = [json.loads(line) for line in lines(path)]
    del kept[2]
    text = "".join(
        json.dumps({**r, "seq": n}, sort_keys=True, separators=(",", ":")) + "\n" for n, r in enumerate(kept)
    )
    path.write_text(text)


def insert(path: Path) -> None:
    found = lines(path)
    path.write_bytes(b"".join([*found[:3], found[2], *found[3:]]))


def swap(path: Path) -> None:
    found = lines(path)
    found[1], found[2] = found[2], found[1]
    path.write_bytes(b"".join(found))


def truncate(path: Path) -> None:
    path.write_bytes(b"".join(lines(path)[:-1]))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"".join([*lines(path)[:3], b"\x00garbage\n", *lines(path)[4:]]))


@pytest.mark.parametrize(
    "change", [edit, delete, delete_and_renumber, insert, swap, truncate, empty, garbage]
)
def test_changes_are_seen_without_an_anchor(path: Path, change) -> None:  # type: ignore[no-untyped-def]  # a table of functions
    write(path, 10)
    change(path)
    with pytest.raises(LogError):
        verify(path, SIGNER.verifier)
    with pytest.raises(LogError):
        Log(path, SIGNER)


def test_truncation_with_its_checkpoints_is_seen_by_the_anchor(path: Path) -> None:
    note = write(path, 10)
    notes = list(split_notes(notes_path(path).read_text()))
    path.write_bytes(b"".join(lines(path)[:8]))
    notes_path(path).write_text("".join(notes[:2]))
    assert verify(path, SIGNER.verifier).records == 8
    with pytest.raises(LogError, match="truncated"):
        verify(path, SIGNER.verifier, anchor=note)


def test_removed_checkpoints_are_seen_by_the_anchor(path: Path) -> None:
    note = write(path, 10)
    notes_path(path).unlink()
    assert verify(path, SIGNER.verifier).unsealed == 10
    with pytest.raises(LogError, match="truncated"):
        verify(path, SIGNER.verifier, anchor=note)


def test_a_fork_is_seen_by_the_anchor(path: Path) -> None:
    """The holder of the key writes the log anew: only a note kept elsewhere tells."""
    note = write(path, 10)
    path.unlink()
    notes_path(path).unlink()
    write(path, 12)
    assert verify(path, SIGNER.verifier).records == 12
    with pytest.raises(LogError, match="not those that were signed"):
        verify(path, SIGNER.verifier, anchor=note)


def test_two_checkpoints_of_one_size_that_differ_are_a_fork(path: Path, tmp_path: Path) -> None:
    write(path, 4)
    write(tmp_path / "other.jsonl", 4)
    with notes_path(path).open("a") as notes:
        notes.write(list(split_notes(notes_path(tmp_path / "other.jsonl").read_text()))[-1])
    with pytest.raises(LogError, match="not those that were signed"):
        verify(path, SIGNER.verifier)


def test_a_foreign_key_is_named(path: Path) -> None:
    write(path, 4)
    stranger = Signer.generate(SIGNER.name)
    with pytest.raises(LogError, match="foreign key"):
        verify(path, stranger.verifier)
    mine = verify(path, SIGNER.verifier).note
    with pytest.raises(LogError, match="foreign key"):
        verify(path, SIGNER.verifier, anchor=stranger.sign(str(Checkpoint.parse(SIGNER.verifier.open(mine)))))


def test_a_note_of_another_log_is_no_anchor(path: Path) -> None:
    write(path, 4)
    other = Signer(SIGNER.name, SIGNER.key).sign(str(Checkpoint("gate.example/other", 4, b"\0" * 32)))
    with pytest.raises(LogError, match="another log"):
        verify(path, SIGNER.verifier, anchor=other)
    with pytest.raises(LogError, match="foreign key"):
        verify(path, SIGNER.named("gate.example/other").verifier)


def test_no_key_no_record(path: Path) -> None:
    write(path, 4)
    with pytest.raises(LogError, match="foreign key"):
        Log(path, Signer.generate(SIGNER.name))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_flips_drops_and_swaps_never_pass(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is done to the bytes of a sealed log, it is refused unless the bytes are the same."""
    path = tmp_path / "p.jsonl"
    if not path.exists():
        (tmp_path / "note").write_text(write(path, 9))
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole, note = (tmp_path / "whole").read_bytes(), (tmp_path / "note").read_text()
    found = whole.splitlines(keepends=True)
    match data.draw(st.sampled_from(["flip", "drop", "swap", "duplicate", "cut", "move"])):
        case "flip":
            changed = bytearray(whole)
            changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
            fresh = bytes(changed)
        case "drop":
            start = data.draw(st.integers(0, len(whole) - 1))
            fresh = whole[:start] + whole[start + data.draw(st.integers(1, 50)) :]
        case "swap":
            one, other = data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=2, unique=True))
            found[one], found[other] = found[other], found[one]
            fresh = b"".join(found)
        case "duplicate":
            place = data.draw(st.integers(0, 8))
            fresh = b"".join([*found[:place], found[place], *found[place:]])
        case "cut":
            fresh = whole[: data.draw(st.integers(0, len(whole) - 1))]
        case _:
            fresh = b"".join([*found[1:], found[0]])
    path.write_bytes(fresh)
    with pytest.raises(LogError):
        verify(path, SIGNER.verifier, anchor=note)
    path.write_bytes(whole)
    assert verify(path, SIGNER.verifier, anchor=note).records == 9


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_changed_checkpoints_never_pass(tmp_path: Path, place: int, change: int, cut: bool) -> None:
    path = tmp_path / "n.jsonl"
    if not path.exists():
        (tmp_path / "note").write_text(write(path, 9))
        (tmp_path / "whole").write_bytes(notes_path(path).read_bytes())
    whole, note = (tmp_path / "whole").read_bytes(), (tmp_path / "note").read_text()
    place %= len(whole)
    changed = bytearray(whole)
    changed[place] ^= change
    notes_path(path).write_bytes(whole[:place] if cut else bytes(changed))
    with pytest.raises(LogError):
        verify(path, SIGNER.verifier, anchor=note)


def test_what_comes_after_the_last_checkpoint_is_said(path: Path) -> None:
    write(path, 4)
    log = Log(path, SIGNER, every=100)
    log.append({"event": "x"})
    log.append({"event": "y"})
    assert verify(path, SIGNER.verifier).unsealed == 2
    log.close()


def test_a_torn_line_is_told_of_and_cut_off(path: Path) -> None:
    note = write(path, 6)
    with path.open("ab") as file:
        file.write(b'{"event":"half')
    with notes_path(path).open("ab") as file:
        file.write(b"gate.example/task\n7\nhalf")
    verified = verify(path, SIGNER.verifier, anchor=note)
    assert (verified.records, verified.torn) == (6, 14)
    Log(path, SIGNER).close()
    assert verify(path, SIGNER.verifier, anchor=note).after_anchor == 1
    recovered = json.loads(lines(path)[-1])
    assert (recovered["torn_bytes"], recovered["unsealed"]) == (14, 0)


def test_records_that_were_sealed_late_are_told_of(path: Path) -> None:
    write(path, 6)
    with path.open("ab") as file:
        file.write(b'{"event":"x","seq":6}\n')
    Log(path, SIGNER).close()
    assert json.loads(lines(path)[-1])["unsealed"] == 1


def test_a_log_without_its_checkpoints_is_not_signed_anew(path: Path) -> None:
    """Whoever takes them away and edits the log does not get it sealed by the next gate."""
    write(path, 3)
    notes_path(path).unlink()
    with pytest.raises(LogError, match="not what was signed"):
        Log(path, SIGNER)


_WRITER = """
import sys
from pathlib import Path
from mirror.gate.log import Log
from mirror.gate.note import Signer
log = Log(Path(sys.argv[1]), Signer.parse(sys.argv[2]), every=16)
print("ready", flush=True)
number = 0
while True:
    log.append({"event": "x", "number": number, "pad": "p" * 200})
    number += 1
    if number % 50 == 0:
        print(log.size, flush=True)
"""


def test_kill_9_costs_no_whole_record(path: Path) -> None:
    """Killed at any moment, the log verifies, holds all that was said to be written, and is gone on with."""
    pick, told = random.Random(7), 0
    for _ in range(4):
        command = [sys.executable, "-c", _WRITER, str(path), SIGNER.to_text()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            time.sleep(pick.uniform(0.01, 0.15))
            writer.send_signal(signal.SIGKILL)
            said = writer.stdout.read().split("\n")
        told = max([told, *(int(line) for line in said[:-1])])
        verified = verify(path, SIGNER.verifier)
        assert verified.records >= told
        assert verified.unsealed <= 16
    Log(path, SIGNER).close()
    assert verify(path, SIGNER.verifier).unsealed == 0


def test_a_full_disk_fails_for_good(path: Path) -> None:
    """After a failed write nothing is taken, so that no request goes on unrecorded."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from mirror.gate.log import Log\n"
        "from mirror.gate.note import Signer; from mirror.gate.errors import LogError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = Log(Path(sys.argv[1]), Signer.parse(sys.argv[2]), every=1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for number in range(100):\n"
        "    try: log.append({'event': 'x', 'n': number})\n"
        "    except LogError as error: break\n"
        "try: log.append({'event': 'y'})\n"
        "except LogError as error: print(number, error.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), SIGNER.to_text()], capture_output=True, text=True, check=True
    )
    written, _, reason = done.stdout.partition(" ")
    assert "takes no more" in reason
    verified = verify(path, SIGNER.verifier)
    assert verified.records == int(written) > 0
    assert verified.torn > 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="cannot be written"):
        Log(tmp_path / "file" / "x.jsonl", SIGNER)


class Clocks:
    """A wall clock and a steady one, set by hand."""

    wall = 1_800_000_000.0
    steady = 50.0

    def open(self, path: Path) -> Log:
        return Log(path, SIGNER, clock=lambda: self.wall, steady=lambda: self.steady)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_jumps_stops_the_log(path: Path, jump: float) -> None:
    clocks = Clocks()
    log = clocks.open(path)
    log.append({"event": "x"})
    clocks.wall += 5
    clocks.steady += 5
    log.append({"event": "x"})
    clocks.wall += jump
    with pytest.raises(LogError, match="clock"):
        log.append({"event": "x"})
    clocks.wall -= jump
    with pytest.raises(LogError, match="no more"):
        log.append({"event": "x"})


def test_a_clock_behind_the_last_record_stops_the_log(path: Path) -> None:
    clocks = Clocks()
    log = clocks.open(path)
    log.append({"event": "x"})
    log.close()
    clocks.wall -= 3600
    log = clocks.open(path)
    with pytest.raises(LogError, match="clock"):
        log.append({"event": "x"})


def test_values_cannot_break_out_of_their_line(path: Path) -> None:
    log = Log(path, SIGNER)
    log.append({"event": "x", "path": '"}\n{"seq":1}\u2028\x00\x1b[31m'})
    log.close()
    assert verify(path, SIGNER.verifier).records == 1
    assert path.read_bytes().isascii()
    assert path.stat().st_mode & 0o007 == 0
