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
path = "svc/*/requirements.txt"
"""
UNCHANGED = """
import sys, time
from pathlib import Path
from mirror import config, refresh
begun = time.process_time()
loaded = config.load(Path(sys.argv[1]))
report = refresh.refresh(loaded, begin=lambda plan: lambda size: None, publish=lambda name, snapshot: None)
assert not report.changed
# Not ru_maxrss, in which a process begins with what the one had that started it.
most = next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(time.process_time() - begun, int(most) * 1024)
"""


def main() -> None:
    rows = []
    for files, locks in ((1_000, 10), (10_000, 100), (40_000, 400)):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), files, locks)
            command = [sys.executable, "-c", UNCHANGED, str(Path(folder, "lockstock.toml"))]
            found = [
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                for _ in range(5)
            ]
        cpu = sorted(float(seconds) for seconds, _ in found)[2]
        memory = max(int(size) for _, size in found)
        rows.append(
            (f"{files:,}", str(locks), human_time(cpu), f"{cpu / files * 1e6:.0f} µs", human_size(memory))
        )
    print_table(
        "refresh with no changes (median of 5)", ("files", "locks", "CPU", "per file", "memory"), rows
    )


def make(root: Path, files: int, locks: int) -> None:
    """Write locks, their files and the snapshot that a refresh would have left."""
    stocked: dict[str, list[Stocked]] = {}
    for number in range(locks):
        folder = root / "svc" / f"s{number:04}"
        folder.mkdir(parents=True)
        found = [stock(f"pkg-{number}-{index}") for index in range(files // locks)]
        lines = (f"{file.name}==1.0 --hash=sha256:{file.sha256}\n" for file in found)
        (folder / "requirements.txt").write_text("".join(lines))
        stocked[f"svc/{folder.name}/requirements.txt"] = found
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


if __name__ == "__main__":
    main()
