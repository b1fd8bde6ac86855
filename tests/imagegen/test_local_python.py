"""A base whose Python its makers built into /usr/local, above a Debian that has one, too: real programs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.imagegen.base_layout import BaseLayout
from tests.imagegen.stocked import StockedProject
from tests.imagegen.test_base_images import CONFIG, HERE
from tests.imagegen.test_direct import NO_ENGINE
from tests.wheels import make_wheel

pytestmark = [pytest.mark.network, pytest.mark.root]
HEADER = b'#define PY_VERSION "3.11.2"\n'


def local_python(debian: Path) -> bytes:
    """Give a layer with Debian's own Python at the places of one that was built into /usr/local."""
    buffer = io.BytesIO()
    with tarfile.open(debian) as base, tarfile.open(fileobj=buffer, mode="w") as layer:
        for member in base:
            name = member.name.removeprefix("./")
            content = base.extractfile(member) if member.isreg() else None
            if name == "usr/bin/python3.11" or name.startswith("usr/lib/python3.11/"):
                member.name = name.replace("usr/", "usr/local/", 1)
            elif name.startswith("usr/share/python-wheels/pip-"):
                member.name = f"usr/local/lib/python3.11/ensurepip/_bundled/{Path(name).name}"
            else:
                continue
            if not (member.issym() and member.linkname.startswith("/etc/")):
                layer.addfile(member, content)
        header = tarfile.TarInfo("usr/local/include/python3.11/patchlevel.h")
        header.size = len(HEADER)
        layer.addfile(header, io.BytesIO(HEADER))
        link = tarfile.TarInfo("usr/local/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
        layer.addfile(link)
    return buffer.getvalue()


def test_it_is_what_the_environment_stands_on(
    stocked_sandbox: StockedProject, real_wheels: dict[str, Path], tmp_path: Path
) -> None:
    def run(project: StockedProject, *arguments: str) -> Any:
        ended = project.imagegen(*arguments, environment=NO_ENGINE)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    stocked_sandbox.json("build", "pytest-sandbox", "--engine", "oci", "-o", f"oci:{tmp_path}/first")
    debian = max(
        (stocked_sandbox.layout.root / "bases").glob("bookworm-*.tar"), key=lambda p: p.stat().st_atime
    )
    layout = BaseLayout(tmp_path / "base")
    kind = "application/vnd.oci.image.layer.v1.tar"
    layers = [debian.read_bytes(), local_python(debian)]
    settings = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    layout.name("1", layout.image(layers, HERE, settings, media_type=kind))
    project = StockedProject(tmp_path / "project")
    files = {"alpha.py": "import sys\ndef main():\n    print(sys.base_prefix)\n"}
    alpha = make_wheel(tmp_path / "up", "alpha", "1.0", files=files, scripts={"alpha": "alpha:main"})
    project.stock({"app": [alpha], ":tools": [real_wheels["pip"]]})
    check = 'checks = ["test $(alpha) = /usr/local"]\n'
    (project.folder / "lockstock.toml").write_text(CONFIG.format(base="oci:../base:1") + check)

    run(project, "build", "dev")

    assert "test $(alpha) = /usr/local" in run(project, "verify", "dev")
