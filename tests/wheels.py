"""Makes small valid wheels and sdists: equal arguments, equal bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from packaging.utils import canonicalize_name

_TIME = (2020, 1, 1, 0, 0, 0)
_BACKEND = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    files: Mapping[str, str | bytes] | None = None,
    *,
    requires_python: str | None = None,
    scripts: Mapping[str, str] | None = None,
    headers: Sequence[str] = (),
) -> Path:
    """Write a wheel into `folder` and give its path.

    Without `files` it holds one module, named as the distribution, with `__version__`. `scripts`
    maps console scripts to `module:function`; `headers` are more lines of METADATA.
    """
    stem = canonicalize_name(name).replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    content = dict(files) if files is not None else {f"{stem}.py": f"__version__ = {version!r}\n"}
    lines = "".join(f"{header}\n" for header in headers)
    content[f"{info}/METADATA"] = metadata(name, version, requires, requires_python) + lines
    content[f"{info}/WHEEL"] = _wheel_file(tag)
    if scripts:
        targets = (f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{info}/entry_points.txt"] = "[console_scripts]\n" + "".join(targets)
    entries = {path: _bytes(data) for path, data in content.items()}
    entries[f"{info}/RECORD"] = _record(entries, f"{info}/RECORD")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{version}-{tag}.whl"
    path.write_bytes(_zip(entries))
    return path


def make_sdist(
    folder: Path,
    name: str,
    version: str,
    requires: Sequence[str] = (),
    files: Mapping[str, str | bytes] | None = None,
    *,
    requires_python: str | None = None,
) -> Path:
    """Write a gzipped sdist that setuptools can build into `folder` and give its path.

    `files` are relative to the archive's top folder and replace what would stand there.
    """
    stem = canonicalize_name(name).replace("-", "_")
    text = metadata(name, version, requires, requires_python)
    project = f"\n[project]\nname = {name!r}\nversion = {version!r}\ndependencies = {list(requires)!r}\n"
    content: dict[str, str | bytes] = {
        "PKG-INFO": text,
        "pyproject.toml": _BACKEND + project,
        f"{stem}.py": f"__version__ = {version!r}\n",
        **(files or {}),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in sorted(content.items()):
            member = tarfile.TarInfo(f"{stem}-{version}/{path}")
            member.size = len(_bytes(data))
            archive.addfile(member, io.BytesIO(_bytes(data)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{version}.tar.gz"
    path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    return path


def metadata(
    name: str, version: str, requires: Sequence[str] = (), requires_python: str | None = None
) -> str:
    """Give the text of a core metadata file."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {name} for tests"]
    if requires_python:
        lines.append(f"Requires-Python: {requires_python}")
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return "\n".join(lines) + "\n"


def digest(path: Path) -> str:
    """Give the sha256 of a file in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()


def _wheel_file(tag: str) -> str:
    pythons, abis, platforms = tag.split("-")
    tags = [f"{p}-{a}-{s}" for p in pythons.split(".") for a in abis.split(".") for s in platforms.split(".")]
    pure = "true" if tag.endswith("-none-any") else "false"
    header = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: {pure}\n"
    return header + "".join(f"Tag: {each}\n" for each in tags)


def _record(entries: Mapping[str, bytes], own: str) -> bytes:
    lines = []
    for path, data in sorted(entries.items()):
        encoded = urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={encoded},{len(data)}\n")
    return "".join([*lines, f"{own},,\n"]).encode()


def _zip(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in entries.items():
            entry = zipfile.ZipInfo(path, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data
