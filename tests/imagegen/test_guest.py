"""The programs that run inside images, tried outside of them."""

from __future__ import annotations

import logging
import socket
import stat
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.guest import imports, isolation, offline, prepare
from tests.wheels import make_wheel

PIP = [
    ["/v/bin/python", "-m", "pip", "install", "x"],
    ["python3", "-I", "-m", "pip"],
    ["python3", "-W", "ignore", "-X", "utf8", "-m", "pip"],
    ["/v/bin/python3", "/v/bin/pip", "install"],
    ["/v/bin/python3", "/v/bin/pip3.11"],
    ["python", "/v/lib/python3.11/site-packages/pip/__pip-runner__.py", "install"],
    ["python", "/v/lib/python3.11/site-packages/pip/__main__.py"],
]
NOT_PIP = [
    [],
    ["python"],
    ["python", "-c", "pip"],
    ["python", "-m", "pipx"],
    ["python", "-W"],
    ["python", "-W", "-m", "script.py"],
    ["python", "/v/bin/pipenv"],
    ["python", "/v/bin/pip-compile"],
    ["python", "script.py", "pip"],
    ["python", "/v/site-packages/pip/other.py"],
    ["python", "-m"],
]


@pytest.mark.parametrize("argv", PIP, ids=" ".join)
def test_pip_is_known(argv: list[str]) -> None:
    assert offline.is_pip(argv)


@pytest.mark.parametrize("argv", NOT_PIP, ids=" ".join)
def test_other_programs_are_left_alone(argv: list[str]) -> None:
    assert not offline.is_pip(argv)


@given(st.lists(st.text()))
def test_no_command_line_disturbs_the_start_of_python(argv: list[str]) -> None:
    assert offline.is_pip(argv) in (True, False)


def test_the_hook_does_nothing_here() -> None:
    before = logging.getLogRecordFactory()
    offline.hook()

    assert logging.getLogRecordFactory() is before


UV = {
    "Because nosuch was not found in the provided package locations and you require nosuch, we": "nosuch",
    "Because there is no version of idna==9.9 and you require idna==9.9, we": "idna==9.9",
    "Because only idna<=3.20 is available and you require idna>=99, we can": "idna>=99",
    "Because only idna==3.20 is available and your project depends on idna>=99, we": "idna>=99",
    "only the following versions of x are available:\n    x==3.1\n    x==3.2\nand you require x>4, we": "x>4",
    "Network connectivity is disabled, but the requested data wasn't found in the cache: "
    "https://files.example/a.whl": "https://files.example/a.whl",
    "\x1b[31merror\x1b[0m: Because \x1b[36mno\x1b[39m was not found in the provided package locations": "no",
    "error: Failed to parse: `x y`": "",
    "": "",
}


@pytest.mark.parametrize(("output", "found"), UV.items())
def test_what_uv_missed_is_found_in_its_words(output: str, found: str) -> None:
    assert offline.missing(output) == found


def test_stocked_versions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", "Some-Package", version)
    (tmp_path / "ask.txt").write_text("ask for it\n")
    monkeypatch.setattr(offline, "HOME", str(tmp_path))

    assert offline.explain("some.package[x]>3") == (
        "this sandbox is offline and some.package[x]>3 is not stocked (stocked: 1.0, 2.0); ask for it"
    )
    assert "(stocked: 1.0, 2.0)" in offline.explain("Some_Package>3 (from other)")
    assert offline.explain("other") == "this sandbox is offline and other is not stocked; ask for it"


FILES = {
    "a package": (["pkg/__init__.py", "pkg/sub/__init__.py", "pkg/mod.py"], ["pkg"]),
    "a module": (["mod.py", "mod-1.0.dist-info/RECORD"], ["mod"]),
    "an extension": (["_fast.cpython-311-x86_64-linux-gnu.so", "_slow.abi3.so"], ["_fast", "_slow"]),
    "a namespace": (["ns/one/__init__.py", "ns/two/deep/__init__.py"], ["ns.one", "ns.two.deep"]),
    "nothing to import": (["pkg.pth", "../../../bin/tool", "pkg-stubs/__init__.pyi", "x-y/__init__.py"], []),
    "the root": (["__init__.py"], ["__init__"]),
}


@pytest.mark.parametrize(("files", "found"), FILES.values(), ids=FILES.keys())
def test_top_level_modules(files: list[str], found: list[str]) -> None:
    if sys.implementation.name == "cpython":
        suffix = f".cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"
        files = [file.replace(".cpython-311-x86_64-linux-gnu.so", suffix) for file in files]

    assert imports.modules(files) == found


def test_an_import_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("import nothing_of_this_name")
    (tmp_path / "killer_module.py").write_text("import os; os._exit(9)")
    (tmp_path / "sleepy_module.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert imports.attempt(["json", "email"]) == ""
    assert imports.attempt(["broken_module"]) == "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert imports.attempt(["killer_module"]) == "ended with 9"
    monkeypatch.setattr(imports, "SECONDS", 0.5)
    assert imports.attempt(["sleepy_module"]) == "not done after 0.5 s"


def test_only_loopback_may_be_there() -> None:
    assert isolation.interfaces(["lo"])[0]
    assert isolation.interfaces([])[0]
    assert isolation.interfaces(["lo", "eth0"]) == (False, "interfaces: lo, eth0")


HEADER = "Iface\tDestination\tGateway\n"
LOOPBACK6 = (
    "0" * 32 + " 00 " + "0" * 32 + " 00 " + "0" * 32 + " ffffffff 00000001 00000000 00200200       lo\n"
)


def test_only_routes_of_loopback_may_be_there() -> None:
    assert isolation.routes(HEADER, LOOPBACK6)[0]
    assert isolation.routes("", "")[0]
    assert isolation.routes(f"{HEADER}eth0\t00000000\t010011AC\n", "") == (False, "routes outward: eth0")
    assert isolation.routes(HEADER, LOOPBACK6.replace("lo\n", "wg0\n")) == (False, "routes outward: wg0")


def test_who_answers_or_refuses_is_there(free_port: int) -> None:
    assert isolation.connection("127.0.0.1", free_port) == (
        False,
        f"tcp 127.0.0.1:{free_port}: Connection refused",
    )
    with socket.create_server(("127.0.0.1", free_port)):
        assert not isolation.connection("127.0.0.1", free_port)[0]


def test_name_servers_are_read() -> None:
    assert isolation.nameservers(
        "# x\nnameserver 192.0.2.53\nsearch example\nnameserver\nnameserver fe80::1%eth0\n"
    ) == [
        "192.0.2.53",
        "fe80::1",
    ]


def test_an_account_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nnode:x:1000:\nsandbox:x:7:\n")
    (tmp_path / "shadow").write_text("root:*:1::::::\n1000:*:1::::::\n")

    for _ in range(2):
        prepare.add_account(tmp_path, "sandbox", 1000, "/home/sandbox", "/bin/bash")

    assert (tmp_path / "passwd").read_text() == (
        "root:x:0:0::/root:/bin/sh\nsandbox:x:1000:1000::/home/sandbox:/bin/bash\n"
    )
    assert (tmp_path / "group").read_text() == "root:x:0:\nsandbox:x:1000:\n"
    assert (
        tmp_path / "shadow"
    ).read_text() == "root:*:1::::::\n1000:*:1::::::\nsandbox:!:3652:0:99999:7:::\n"


def test_accounts_and_modules_in_another_encoding_stay_as_they_are(tmp_path: Path) -> None:
    old = "root:x:0:0:René:/root:/bin/sh\n".encode("latin-1")
    (tmp_path / "passwd").write_bytes(old)
    (tmp_path / "sitecustomize.py").write_bytes(b"# -*- coding: latin-1 -*- Ren\xe9\n")

    prepare.add_account(tmp_path, "sandbox", 1000, "/home/sandbox", "/bin/bash")
    prepare.add_hook(tmp_path, Path(str(offline.__file__)))

    assert (tmp_path / "passwd").read_bytes().startswith(old)
    assert (tmp_path / "sitecustomize.py").read_bytes().startswith(b"# -*- coding: latin-1 -*- Ren\xe9\n")


def test_the_hook_is_added_once_and_keeps_what_was_there(tmp_path: Path) -> None:
    stdlib, etc = tmp_path / "lib", tmp_path / "etc"
    stdlib.mkdir()
    etc.mkdir()
    (etc / "sitecustomize.py").write_text("first = 1\n")
    (stdlib / "sitecustomize.py").symlink_to(etc / "sitecustomize.py")

    for _ in range(2):
        prepare.add_hook(stdlib, Path(str(offline.__file__)))

    assert (stdlib / "sitecustomize.py").is_symlink()
    assert (etc / "sitecustomize.py").read_text() == f"first = 1\n{prepare.HOOK}"
    code = (
        f"import sys; sys.path.insert(0, {str(stdlib)!r}); import sitecustomize; print(sitecustomize.first)"
    )
    ran = subprocess.run([sys.executable, "-S", "-c", code], check=False, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("1\n", "")


def test_uv_is_unpacked_from_its_wheel(tmp_path: Path) -> None:
    programs = {f"uv-0.9.data/scripts/{name}": name for name in ("uv", "uvx")}
    wheel = make_wheel(
        tmp_path, "uv", "0.9", files={**programs, "uv/__init__.py": "", "uv-0.9.data/scripts/../evil": "x"}
    )

    prepare.unpack_uv(wheel, tmp_path / "bin")

    assert sorted(file.name for file in (tmp_path / "bin").iterdir()) == ["uv", "uvx"]
    assert stat.S_IMODE((tmp_path / "bin" / "uv").stat().st_mode) == 0o755


def test_a_real_pip_says_one_sentence(tmp_path: Path) -> None:
    """The pip of the Python that runs the tests, with the hook as it is in an image."""
    venv.create(tmp_path / "v", with_pip=True)
    site = next((tmp_path / "v" / "lib").glob("python*/site-packages"))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "ask.txt").write_text("ask for it\n")
    code = Path(str(offline.__file__)).read_text().replace('HOME = "/opt/lockstock"', f'HOME = "{tmp_path}"')
    (site / "lockstock_offline.py").write_text(code)
    (site / "hook.pth").write_text("import lockstock_offline; lockstock_offline.hook()\n")

    ran = subprocess.run(
        [tmp_path / "v/bin/pip", "install", "--no-index", "--disable-pip-version-check", "nosuch"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert ran.returncode == 1
    assert ran.stderr == "ERROR: this sandbox is offline and nosuch is not stocked; ask for it\n"
