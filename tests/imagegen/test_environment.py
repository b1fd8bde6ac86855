"""What an image has besides packages, on bases that are not what they should be."""

from __future__ import annotations

from imagegen.environment import settings_entries
from imagegen.guest.prepare import HOOK
from imagegen.plan import make_plan
from imagegen.rootfs import File, RootFs
from tests.imagegen.plans import BASE, SNAPSHOT, SPEC, TARGET

PASSWD = "root:x:0:0:Ren\u00e9:/root:/bin/sh\n".encode("latin-1")
SITE = b"# -*- coding: latin-1 -*- Ren\xe9\n"


def test_accounts_and_modules_in_another_encoding_stay_as_they_are() -> None:
    files = {"etc/passwd": PASSWD, "etc/python3.11/sitecustomize.py": SITE}
    held = {path: File(content=content, mode=0o644, owner=(0, 0)) for path, content in files.items()}
    root = RootFs(files=held, python="3.11.2", arch="x86_64", packages={})
    plan = make_plan(SPEC, SNAPSHOT, TARGET, BASE, templates="t")

    made = {entry.path: entry.content for entry in settings_entries(plan, root, "3.11")}

    assert made["etc/passwd"] == PASSWD + b"sandbox:x:1000:1000::/home/sandbox:/bin/bash\n"
    assert made["etc/python3.11/sitecustomize.py"] == SITE + HOOK.encode()
