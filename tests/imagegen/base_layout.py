"""An OCI image layout with small bases: they say of themselves what a Debian does, and cannot run."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.wheels import make_wheel

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def status(architecture: str, python: str = "3.11.2", without: str = "") -> bytes:
    """Give dpkg's status file of a base with everything that one needs, but for one package."""
    minor = python.rpartition(".")[0]
    names = ["libc6", "git", "ca-certificates", f"python{minor}-minimal", f"python{minor}-venv"]
    versions = {"libc6": "2.36-9", f"python{minor}-minimal": f"{python}-6"}
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\n"
        f"Version: {versions.get(name, '1.0')}\n"
        for name in names
        if name != without
    ).encode()


def tar(files: Mapping[str, bytes | None], links: Mapping[str, tuple[bytes, str]] | None = None) -> bytes:
    """Give a tar of files, of folders where there is no content, and of links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755 if content is None else 0o644, len(content or b"")
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content or b""))
        for name, (kind, target) in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return buffer.getvalue()


def base_files(folder: Path, architecture: str, **options: str) -> dict[str, bytes | None]:
    """Give the files of a base."""
    pip = make_wheel(
        folder / architecture, "pip", "23.0", files={"pip/__init__.py": "", "pip/__main__.py": ""}
    )
    return {
        "etc/": None,
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/os-release": b'ID=debian\nVERSION_CODENAME="bookworm"\n',
        "usr/bin/python3.11": b"no program",
        "usr/share/python-wheels/pip-23.0-py3-none-any.whl": pip.read_bytes(),
        "var/lib/dpkg/status": status(architecture, **options),
    }


@dataclass
class BaseLayout:
    """A layout that images are added to."""

    folder: Path
    entries: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def image(
        self,
        layers: Sequence[bytes],
        architecture: str,
        settings: Mapping[str, Any] | None = None,
        *,
        diff_ids: Iterable[str] = (),
        media_type: str = GZIP,
    ) -> dict[str, Any]:
        """Write an image of these tars and give its descriptor."""
        known = [*diff_ids] or [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": settings or {},
            "rootfs": {"type": "layers", "diff_ids": known},
        }
        packed = [gzip.compress(layer, mtime=0) if media_type.endswith("gzip") else layer for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(config).encode()),
            "layers": [{"mediaType": media_type, **self.blob(layer)} for layer in packed],
        }
        return {
            "mediaType": MANIFEST,
            "platform": {"os": "linux", "architecture": architecture},
            **self.blob(json.dumps(manifest).encode()),
        }

    def name(self, tag: str, descriptor: Mapping[str, Any]) -> None:
        """List an image or index under a tag."""
        self.entries.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}})
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def index(self, *descriptors: Mapping[str, Any]) -> dict[str, Any]:
        """Write an index of images and give its descriptor."""
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors}).encode()
        return {"mediaType": INDEX, **self.blob(data)}

    def push(self, host: str, name: str, tag: str) -> None:
        """Bring the image of that tag to a registry without TLS."""
        root = f"http://{host}/v2/{name}"
        entry = next(e for e in self.entries if e["annotations"]["org.opencontainers.image.ref.name"] == tag)
        manifest = self.read(entry["digest"])
        for part in (json.loads(manifest)["config"], *json.loads(manifest)["layers"]):
            place = httpx.post(f"{root}/blobs/uploads/").headers["Location"]
            sent = httpx.put(place, params={**httpx.URL(place).params, "digest": part["digest"]},
                             content=self.read(part["digest"]))  # fmt: skip
            assert sent.status_code == 201, sent.text
        headers = {"Content-Type": entry["mediaType"]}
        assert httpx.put(f"{root}/manifests/{tag}", content=manifest, headers=headers).status_code == 201

    def read(self, digest: str) -> bytes:
        return (self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
