from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mirror.errors import DiskFullError, RegistryError, StoreError
from mirror.publish import devpi, devpi_state
from mirror.snapshot import Stocked
from tests.mirror.registry import Registry, pip_install, uv_install
from tests.wheels import make_sdist, make_wheel

CLIENTS = pytest.mark.parametrize("install", [pip_install, uv_install])


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "mirror")
    with registry.start():
        yield registry


def stock(registry: Registry, name: str, version: str = "1.0", **kwargs: object) -> Stocked:
    wheel = make_wheel(registry.root / "wheels", name, version, **kwargs)  # type: ignore[arg-type]  # passed on
    return registry.stock(wheel, name, version)


@CLIENTS
def test_clients_install_with_hashes_from_the_index_alone(registry, tmp_path, install):
    base = stock(registry, "lockstock-base", "2.0")
    top = stock(registry, "lockstock-top", requires=["lockstock-base>=2"])
    registry.publish("0001-a", base, top)
    done = install(registry, tmp_path / "site", base, top)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "site" / "lockstock_base.py").read_text() == "__version__ = '2.0'\n"
    assert (tmp_path / "site" / "lockstock_top.py").is_file()


@CLIENTS
def test_what_the_snapshot_does_not_name_is_not_there(registry, tmp_path, install):
    seen, held = stock(registry, "lockstock-seen"), stock(registry, "idna", "3.7")
    registry.publish("0001-a", seen)
    assert registry.projects() == ["lockstock-seen"]
    done = install(registry, tmp_path / "site", held)
    assert done.returncode != 0
    assert not (tmp_path / "site" / "idna.py").exists()


def test_promotion_switches_at_once_and_the_previous_stays_until_then(registry, tmp_path):
    old, new = stock(registry, "lockstock-it", "1.0"), stock(registry, "lockstock-it", "2.0")
    registry.publish("0001-a", old)
    assert registry.files("lockstock-it") == {old.filename: old.sha256}
    assert uv_install(registry, tmp_path / "old", old).returncode == 0
    published = registry.publish("0002-b", new)
    assert published == devpi.Published(index="s-0002-b", files=1, changed=True)
    assert registry.files("lockstock-it") == {new.filename: new.sha256}
    assert uv_install(registry, tmp_path / "gone", old).returncode != 0
    registry.publish("0001-a", old)  # and back
    assert registry.files("lockstock-it") == {old.filename: old.sha256}


def test_readers_see_all_of_the_old_or_all_of_the_new(registry):
    old = [stock(registry, f"lockstock-old{n}") for n in range(20)]
    new = [stock(registry, f"lockstock-new{n}") for n in range(20)]
    registry.publish("0001-a", *old)
    wanted = [sorted(file.name for file in files) for files in (old, new)]
    seen: list[list[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(registry.projects())

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(6):
        registry.publish(*(("0001-a", *old) if turn % 2 else ("0002-b", *new)))
        assert registry.projects() == wanted[(turn + 1) % 2]
    done.set()
    reader.join()
    assert len(seen) > 5
    assert all(projects in wanted for projects in seen)


def test_publishing_what_is_published_opens_nothing(registry):
    file = stock(registry, "lockstock-it")
    assert registry.publish("0001-a", file).changed
    database = devpi_state.server_folder(registry.folder) / ".sqlite"
    before = database.stat().st_mtime_ns
    script = (
        "import sys; from pathlib import Path; from mirror.publish import devpi\n"
        "from mirror.snapshot import Snapshot, Stocked; from mirror.store import Store\n"
        f"file = {file!r}; root = Path({str(registry.root)!r})\n"
        "snapshot = Snapshot.of([], [file], [])\n"
        "assert not devpi.publish(root / 'devpi', '0001-a', snapshot, Store(root / 'store')).changed\n"
        "assert devpi.prune(root / 'devpi', ['0001-a']) == ()\n"
        "assert 'devpi_server' not in sys.modules, 'importing it takes longer than all the rest'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert database.stat().st_mtime_ns == before


def test_publishing_again_after_damage_repairs_the_index(registry):
    file = stock(registry, "lockstock-it")
    registry.publish("0001-a", file)
    server = devpi_state.server_folder(registry.folder)
    for lost in (*server.rglob(file.filename), server / ".lockstock"):
        lost.unlink()
    assert registry.publish("0001-a", file).changed
    assert registry.files("lockstock-it") == {file.filename: file.sha256}


def test_clients_find_the_index_while_it_is_mended(registry, monkeypatch):
    files = [stock(registry, f"lockstock-it{n}") for n in range(3)]
    registry.publish("0001-a", *files)
    server, seen, fill = devpi_state.server_folder(registry.folder), [], devpi.fill

    def look(*arguments: object) -> None:
        seen.append(registry.projects())
        fill(*arguments)
        seen.append(registry.projects())

    monkeypatch.setattr(devpi, "fill", look)
    for lost in (*server.rglob(files[0].filename), server / ".lockstock"):
        lost.unlink()
    registry.publish("0001-a", *files)
    assert seen == [[file.name for file in files]] * 2
    registry.publish("0002-b", files[0])  # which opens the storage again, and completes what it finds there
    assert len(list(server.rglob("*.whl"))) == len(files) + 1
    registry.publish("0001-a", *files)
    for file in files:
        assert registry.files(file.name) == {file.filename: file.sha256}


def test_files_are_hard_links_to_the_store(registry):
    file = stock(registry, "lockstock-it")
    registry.publish("0001-a", file)
    registry.publish("0002-b", file, stock(registry, "lockstock-other"))
    held = registry.store.path(file.sha256).stat()
    links = list(registry.folder.rglob(file.filename))
    assert [link.stat().st_ino for link in links] == [held.st_ino] * 2
    assert held.st_nlink == 3


def test_pruning_removes_indexes_and_their_files_but_never_the_published(registry):
    files = [stock(registry, "lockstock-it", f"{n}.0") for n in range(3)]
    for number, file in enumerate(files):
        registry.publish(f"{number:04}-x", file)
    assert devpi.prune(registry.folder, ["0001-x"]) == ("s-0000-x",)
    assert registry.indexes() == ["current", "s-0001-x", "s-0002-x"]
    assert devpi.prune(registry.folder, []) == ("s-0001-x",)
    assert registry.files("lockstock-it") == {files[2].filename: files[2].sha256}
    assert [registry.store.path(file.sha256).stat().st_nlink for file in files] == [1, 1, 2]
    folders = (devpi_state.server_folder(registry.folder) / "+files" / devpi_state.USER).iterdir()
    assert [folder.name for folder in folders] == ["s-0002-x"]


def test_publishing_works_without_a_server(tmp_path):
    registry = Registry(tmp_path)
    file = stock(registry, "lockstock-it")
    registry.publish("0001-a", file)
    with registry.start():
        assert registry.files("lockstock-it") == {file.filename: file.sha256}


def test_requires_python_and_summary_reach_clients(registry):
    wheel = make_wheel(registry.root / "w", "lockstock-wheel", "1.0", requires_python=">=3.9")
    sdist = make_sdist(registry.root / "w", "lockstock-sdist", "1.0", requires_python=">=3.8")
    indexed = make_wheel(registry.root / "w", "lockstock-indexed", "1.0")
    registry.publish(
        "0001-a",
        registry.stock(wheel, "lockstock-wheel", "1.0"),
        registry.stock(sdist, "lockstock-sdist", "1.0"),
        registry.stock(indexed, "lockstock-indexed", "1.0", requires_python=">=3.7"),
    )
    for name, wanted in (("wheel", "3.9"), ("sdist", "3.8"), ("indexed", "3.7")):
        page = httpx.get(f"{registry.index_url}lockstock-{name}/", trust_env=False).text
        assert f'data-requires-python="&gt;={wanted}"' in page
    url = f"http://127.0.0.1:{registry.port}/lockstock/current/lockstock-wheel/1.0"
    answer = httpx.get(url, headers={"Accept": "application/json"}, trust_env=False).json()
    assert answer["result"]["summary"] == "lockstock-wheel for tests"


def test_two_different_files_of_one_name_are_refused(registry):
    first = stock(registry, "lockstock-it")
    other = stock(registry, "lockstock-it", files={"other.py": ""})
    registry.publish("0001-a", first)
    with pytest.raises(RegistryError, match="two different files") as caught:
        registry.publish("0002-b", first, other)
    assert caught.value.where == first.filename
    assert registry.files("lockstock-it") == {first.filename: first.sha256}


def test_a_file_that_the_store_lacks_is_refused(registry):
    file = stock(registry, "lockstock-it")
    registry.publish("0001-a", file)
    lost = stock(registry, "lockstock-lost")
    registry.store.remove(lost.sha256)
    with pytest.raises(StoreError):
        registry.publish("0002-b", file, lost)
    assert registry.projects() == ["lockstock-it"]


def test_a_damaged_database_is_one_clear_error(tmp_path):
    registry = Registry(tmp_path)
    devpi_state.init(registry.folder)
    (devpi_state.server_folder(registry.folder) / ".sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(RegistryError, match="cannot be used") as caught:
        registry.publish("0001-a", stock(registry, "lockstock-it"))
    assert caught.value.where == str(registry.folder)
    assert caught.value.hint


@pytest.mark.root
def test_a_full_disk_is_told_and_the_previous_snapshot_stays(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=True)
    try:
        registry = Registry(tmp_path)
        old, new = stock(registry, "lockstock-it", "1.0"), stock(registry, "lockstock-it", "2.0")
        with registry.start():
            registry.publish("0001-a", old)
            _fill_up(tmp_path / "ballast")
            with pytest.raises(DiskFullError):
                registry.publish("0002-b", new)
            assert registry.files("lockstock-it") == {old.filename: old.sha256}
            (tmp_path / "ballast").unlink()
            registry.publish("0002-b", new)
            assert registry.files("lockstock-it") == {new.filename: new.sha256}
            assert registry.leftovers() == []
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def _fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
