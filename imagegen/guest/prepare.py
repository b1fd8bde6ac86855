"""Prepares the root file system of an image, as root, while it is built.

Plain files are written instead of calling useradd and the like, which not every base has.
"""

from __future__ import annotations

import argparse
import os
import py_compile
import shutil
import sysconfig
import zipfile
from pathlib import Path, PurePosixPath

HOME = Path("/opt/lockstock")
HOOK = """
# Says in one line that this sandbox is offline when pip does not find a package.
try:
    import lockstock_offline
except ImportError:
    pass
else:
    lockstock_offline.hook()
"""


def add_account(etc: Path, user: str, uid: int, home: str, shell: str) -> None:
    """Add a user and its group to passwd, group and shadow.

    They take the place of any that has the name or the number.
    """
    _replace(etc / "passwd", user, uid, f"{user}:x:{uid}:{uid}::{home}:{shell}")
    _replace(etc / "group", user, uid, f"{user}:x:{uid}:")
    if (etc / "shadow").exists():
        _replace(etc / "shadow", user, None, f"{user}:!:3652:0:99999:7:::")


def _replace(file: Path, name: str, number: int | None, line: str) -> None:
    # Names of people are there in whatever encoding.
    text = file.read_bytes().decode("utf-8", "surrogateescape") if file.exists() else ""
    kept = [entry for entry in text.split("\n") if entry and not _is_account(entry, name, number)]
    file.write_bytes(("\n".join([*kept, line]) + "\n").encode("utf-8", "surrogateescape"))


def _is_account(entry: str, name: str, number: int | None) -> bool:
    fields = entry.split(":")
    return fields[0] == name or (number is not None and len(fields) > 2 and fields[2] == str(number))


def add_hook(stdlib: Path, module: Path) -> None:
    """Put the module where every virtual environment of this Python finds it, and call it at start."""
    copy = stdlib / "lockstock_offline.py"
    shutil.copyfile(module, copy)
    py_compile.compile(str(copy), doraise=True)
    start = (stdlib / "sitecustomize.py").resolve()
    before = start.read_bytes() if start.exists() else b""
    if HOOK.encode() not in before:
        start.write_bytes(before + HOOK.encode())


def unpack_uv(wheel: Path, target: Path) -> None:
    """Put the programs of uv's wheel into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if PurePosixPath(member).match("uv-*.data/scripts/uv*"):
                program = target / PurePosixPath(member).name
                program.write_bytes(archive.read(member))
                program.chmod(0o755)


def make_folders(paths: list[Path], uid: int) -> None:
    """Make folders that belong to the user."""
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        os.chown(path, uid, uid)


def main() -> None:
    """Prepare everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", required=True)
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--uv", help="the file name of uv's wheel")
    arguments = parser.parse_args()
    home = Path("/home", arguments.user)
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    add_account(Path("/etc"), arguments.user, arguments.uid, str(home), shell)
    make_folders([home, arguments.workspace, HOME / "venv"], arguments.uid)
    add_hook(Path(sysconfig.get_path("stdlib")), HOME / "lib" / "offline.py")
    if arguments.uv:
        unpack_uv(HOME / "wheels" / arguments.uv, HOME / "tools" / "bin")


if __name__ == "__main__":
    main()
