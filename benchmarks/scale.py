"""How plan and a run with no changes grow: 1,000, 10,000 and 40,000 files of 10, 100 and 400 locks.

Files and snapshot are made here, without an index; what is timed runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from mirror.config import load
from mirror.console import human_size, human_time, print_table
from mirror.inputs import inputs_digest, read_locks
from mirror.layout import Layout
from mirror.snapshot import Selected, Snapshot, Stocked

CONFIG = """\
[mirror]
tools = []
[targets]
python = ["3.11"]
glibc = "2.36"
[locks.svc]
path = "svc/*/pylock.toml"
"""
RUNS = {
    "plan": "refresh.dry_run(loaded)",
    "no change": "refresh.refresh(loaded, begin=lambda _: lambda _: None, publish=lambda *_: None)",
}
SCRIPT = """
import sys, time
from pathlib import Path
from mirror import config, refresh
begun = time.process_time()
loaded = config.load(Path(sys.argv[1]))
report = {run}
assert not report.changed and not report.failed
# Not ru_maxrss, in which a process begins with what the one had that started it.
most = next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(time.process_time() - begun, int(most) * 1024)
"""


def main() -> None:
    rows = []
    for files, locks in ((1_000, 10), (10_000, 100), (40_000, 400)):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), files, locks)
            rows += [row(Path(folder), files, locks, name) for name in RUNS]
    print_table(
        "plan, and refresh with no changes (median of 5)",
        ("run", "files", "locks", "CPU", "per file", "memory"),
        rows,
    )


def row(folder: Path, files: int, locks: int, name: str) -> tuple[str, ...]:
    command = [sys.executable, "-c", SCRIPT.format(run=RUNS[name]), str(folder / "lockstock.toml")]
    found = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(5)
    ]
    cpu = sorted(float(seconds) for seconds, _ in found)[2]
    memory = human_size(max(int(size) for _, size in found))
    return name, f"{files:,}", str(locks), human_time(cpu), f"{cpu / files * 1e6:.0f} µs", memory


def make(root: Path, files: int, locks: int) -> None:
    """Write locks, their files and the snapshot that a refresh would have left."""
    stocked: dict[str, list[Stocked]] = {}
    for number in range(locks):
        folder = root / "svc" / f"s{number:04}"
        folder.mkdir(parents=True)
        found = [stock(f"pkg-{number}-{index}") for index in range(files // locks)]
        text = 'lock-version = "1.0"\ncreated-by = "benchmark"\n'
        (folder / "pylock.toml").write_text(text + "".join(map(locked, found)))
        stocked[f"svc/{folder.name}/pylock.toml"] = found
    (root / "lockstock.toml").write_text(CONFIG)
    config = load(root / "lockstock.toml")
    layout = Layout(config.root)
    for file in (file for found in stocked.values() for file in found):
        path = layout.store.path(file.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.name.encode())
    texts, _ = read_locks(config, layout)
    target = str(config.targets[0])
    snapshot = Snapshot.of(
        [text.record(root) for text in texts],
        [file for found in stocked.values() for file in found],
        [
            Selected(lock=k, target=target, artifacts=tuple(sorted(f.sha256 for f in v)))
            for k, v in stocked.items()
        ],
        inputs=inputs_digest(config, texts),
    )
    layout.snapshots.switch(layout.snapshots.add(snapshot))


def stock(name: str) -> Stocked:
    digest = hashlib.sha256(name.encode()).hexdigest()
    filename = f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    url = f"https://files.example/{filename}"
    return Stocked(
        ecosystem="pypi", name=name, version="1.0", filename=filename, sha256=digest, size=len(name), url=url
    )


def locked(file: Stocked) -> str:
    wheel = f'{{ url = "{file.url}", size = {file.size}, hashes = {{ sha256 = "{file.sha256}" }} }}'
    return f'[[packages]]\nname = "{file.name}"\nversion = "{file.version}"\nwheels = [{wheel}]\n'


if __name__ == "__main__":
    main()
