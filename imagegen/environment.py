"""What an image holds besides wheels, as entries: the empty environment, accounts, settings, the hook.

It is what `python3 -m venv` and `guest/prepare.py` leave behind in a Dockerfile's steps, as data.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagegen import context
from imagegen.archive import Entry
from imagegen.guest.prepare import HOOK, add_account
from imagegen.plan import HOME, UID, WORKSPACE, ImagePlan
from imagegen.rootfs import ACCOUNTS, RootFs
from imagegen.wheels import Venv

_ROOT = HOME.lstrip("/")
_ROOTFS = "rootfs/"


def owner(user: str, path: str) -> int:
    """Say whose a path of the image is: the user's or root's."""
    own = (f"{_ROOT}/venv", f"{_ROOT}/npm", WORKSPACE.lstrip("/"), f"home/{user}")
    return UID if any(path == place or path.startswith(f"{place}/") for place in own) else 0


def venv_entries(root: RootFs, venv: Venv) -> Iterator[Entry]:
    """Give an environment without packages, as `venv` of the base's Python makes it."""
    place = venv.root.lstrip("/")
    config = (
        f"home = {root.prefix}/bin\ninclude-system-site-packages = false\n"
        f"version = {root.python}\nexecutable = {root.prefix}/bin/python{venv.python}\n"
        f"command = {root.prefix}/bin/python3 -m venv {venv.root}\n"
    )
    yield Entry(path=f"{place}/pyvenv.cfg", content=config.encode())
    yield Entry(path=f"{place}/lib64", link="lib")
    yield Entry(path=f"{place}/include/python{venv.python}", folder=True, mode=0o755)
    yield Entry(path=f"{place}/{venv.site_packages}", folder=True, mode=0o755)
    yield Entry(path=f"{place}/bin/python3", link=f"{root.prefix}/bin/python3")
    for name in ("python", f"python{venv.python}"):
        yield Entry(path=f"{place}/bin/{name}", link="python3")
    for name, template in root.venv_scripts():
        yield Entry(path=f"{place}/bin/{name}", content=_activation(template, venv.root))


def settings_entries(plan: ImagePlan, root: RootFs, python: str) -> Iterator[Entry]:
    """Give the configuration files, accounts, folders of the user, and the offline hook."""
    for entry in context.render(plan):
        if entry.path.startswith(_ROOTFS):
            yield Entry(path=entry.path.removeprefix(_ROOTFS), content=entry.content, mode=entry.mode)
    yield from _accounts(plan, root)
    for folder in (WORKSPACE.lstrip("/"), f"home/{plan.user}"):
        yield Entry(path=folder, folder=True, mode=0o755)
    hook = context.guest_program("offline.py")
    yield Entry(path=f"{root.prefix.lstrip('/')}/lib/python{python}/lockstock_offline.py", content=hook)
    yield _site(root, python)


def _site(root: RootFs, python: str) -> Entry:
    """Give sitecustomize with the hook; Debian keeps it below /etc and links to it."""
    path = f"etc/python{python}/sitecustomize.py"
    if path not in root.files or root.prefix != "/usr":
        path = f"{root.prefix.lstrip('/')}/lib/python{python}/sitecustomize.py"
    start = root.files[path].content if path in root.files else b""
    return Entry(path=path, content=start + HOOK.encode())


def _accounts(plan: ImagePlan, root: RootFs) -> Iterable[Entry]:
    with tempfile.TemporaryDirectory() as name:
        etc = Path(name)
        held = {path: root.files[path] for path in ACCOUNTS if path in root.files}
        for path, file in held.items():
            (etc / Path(path).name).write_bytes(file.content)
        add_account(etc, plan.user, UID, f"/home/{plan.user}", plan.shell)
        return [
            Entry(
                path=path,
                content=(etc / Path(path).name).read_bytes(),
                mode=held[path].mode if path in held else 0o644,
                owner=held[path].owner if path in held else (0, 0),
            )
            for path in ACCOUNTS
            if (etc / Path(path).name).exists()
        ]


def _activation(template: bytes, venv: str) -> bytes:
    # With Python 3.13 the brackets moved from the value into the templates, and with a security fix
    # quotes moved from the templates into the value.
    prompt = "venv" if re.search(rb'\("?__VENV_PROMPT__', template) else "(venv) "
    if b'"__VENV_PROMPT__' not in template:
        prompt = shlex.quote(prompt)
    values = {
        "DIR": venv, "NAME": "venv", "PROMPT": prompt, "BIN_NAME": "bin", "PYTHON": f"{venv}/bin/python3",
    }  # fmt: skip
    for name, value in values.items():
        template = template.replace(f"__VENV_{name}__".encode(), value.encode())
    return template
