"""An object store with an S3 API on loopback: OpenStack Swift, its four servers on one device."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import httpx

KEY, SECRET = "test:tester", "testing-s3cret"
_KINDS = ("account", "container", "object")
_RINGS = """\
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(("account", "container", "object"), sys.argv[2:]):
    builder = RingBuilder(2, 1, 0)
    builder.add_dev(dict(region=1, zone=1, weight=1, ip="127.0.0.1", port=int(port), device="d1"))
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""
_STORAGE = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {root}
devices = {root}/devices
mount_check = false
workers = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PROXY = f"""\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {{port}}
swift_dir = {{root}}
workers = 0
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_{KEY.replace(":", "_")} = {SECRET} .admin
user_test_reader = {SECRET}
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


class ObjectServer:
    """Runs while its `with` block does; buckets are public to read, at an address without S3."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> ObjectServer:
        ports = _free_ports(4)
        (self.root / "devices" / "d1").mkdir(parents=True)
        (self.root / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = one\ndefault = yes\n"
        )
        subprocess.run([sys.executable, "-c", _RINGS, self.root, *map(str, ports)], check=True)
        for kind, port in zip(_KINDS, ports, strict=False):
            self._start(kind, _STORAGE.format(kind=kind, port=port, root=self.root))
        self._start("proxy", _PROXY.format(port=ports[-1], root=self.root))
        self.endpoint = f"http://127.0.0.1:{ports[-1]}"
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """The AWS configuration of a user of this store."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip

    @property
    def client(self) -> Any:
        """A client of the S3 API."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        )  # fmt: skip

    def bucket(self, name: str) -> str:
        """Make a bucket that anybody may read, and give its public URL."""
        self.client.create_bucket(Bucket=name, ACL="public-read")
        return f"{self.endpoint}/v1/AUTH_test/{name}"

    def objects(self, bucket: str, prefix: str = "") -> Mapping[str, str]:
        """Give all keys with their etags."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}

    def _start(self, kind: str, text: str) -> None:
        file = self.root / f"{kind}.conf"
        file.write_text(text)
        program = Path(sys.executable).with_name(f"swift-{kind}-server")
        log = (self.root / f"{kind}.log").open("wb")
        with log:
            self._processes.append(
                subprocess.Popen([program, file, "-v"], stdout=log, stderr=log, preexec_fn=_end_with_parent)
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.endpoint}/info", trust_env=False)
                self.client.list_buckets()
            except Exception:
                assert time.monotonic() < deadline, (self.root / "proxy.log").read_text()
                time.sleep(0.1)
            else:
                return


_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Leave no server behind when the tests are killed."""
    _libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
