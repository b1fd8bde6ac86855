"""A real registry on loopback, and small images to push to it."""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from imagegen.delivery import Delivery
from imagegen.layers import Content, Layers
from imagegen.live import Silent
from imagegen.oci import Image, ImageLayout, make_image
from imagegen.plan import make_plan
from imagegen.reference import Reference
from tests.imagegen.plans import BASE, SNAPSHOT, SPEC, TARGET

# bcrypt of the secret, at its lowest cost
HTPASSWD = "ci:$2b$04$abcdefghijklmnopqrstuuBxS6FB60KlZb.AivOc2z5qdP/hOu2r6\n"
SECRET = "p:w d"
PLAN = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="0")
CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
http:
  addr: 127.0.0.1:{port}
"""
TLS = "  tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}\n"
AUTH = "auth:\n  htpasswd: {{realm: tests, path: {folder}/htpasswd}}\n"


@dataclass
class Registry:
    """A docker-registry on loopback, which lives inside the block."""

    folder: Path
    port: int
    extra: str = ""
    scheme: str = "http"

    def __enter__(self) -> Registry:
        (self.folder / "config.yml").write_text(
            (CONFIG + self.extra).format(folder=self.folder, port=self.port)
        )
        (self.folder / "htpasswd").write_text(HTPASSWD)
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(self.folder / "config.yml")], stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise RuntimeError("the registry does not start")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"http://{self.host}/v2/{path}", **options)


@dataclass
class Made:
    """A small image in a layout."""

    root: Path
    contents: tuple[bytes, ...] = (b"base", b"venv")
    image: Image = field(init=False)

    def __post_init__(self) -> None:
        layers = Layers(self.root)
        made = [
            layers.get([c.hex()[:64], len(c)], "", lambda c=c: Content(tar=[c], facts={}))[0]  # type: ignore[misc]
            for c in self.contents
        ]
        self.layout = ImageLayout(self.root / "oci")
        self.image = make_image(PLAN, made, "amd64")
        self.layout.add(self.image, [PLAN.reference])

    def push(self, reference: str, *tags: str) -> Any:
        with Delivery(self.layout, Reference.parse(reference), Silent()) as delivery:
            return delivery.finish([self.image], tags)


def docker_config(folder: Path, registry: str, secret: str = SECRET) -> Path:
    auth = base64.b64encode(f"ci:{secret}".encode()).decode()
    content: Mapping[str, Any] = {"auths": {registry: {"auth": auth}}}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, plain))
