from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.archive import Deflated, Entry, plainly, tar, tar_stream, write_folder
from imagegen.project import project_entries

NAMES = st.lists(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=120
    ).filter(lambda name: name not in (".", "..")),
    min_size=1,
    max_size=4,
).map("/".join)


def read(stream: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        return archive.getmembers()


def test_entries_are_sorted_with_their_folders_and_without_times(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"y" * 3_000_000)
    entries = [
        Entry(path="b/c/d", content=b"x", mode=0o755),
        Entry(path="b/a", content=tmp_path / "file"),
        Entry(path="b/link", link="c/d"),
        Entry(path="a"),
    ]

    stream = b"".join(tar_stream(entries, uid=1000))
    members = read(stream)

    assert [member.name for member in members] == ["a", "b", "b/a", "b/c", "b/c/d", "b/link"]
    assert {(m.uid, m.gid, m.mtime, m.uname) for m in members} == {(1000, 1000, 0, "")}
    assert [oct(member.mode) for member in members] == ["0o644", "0o755", "0o644", "0o755", "0o755", "0o777"]
    assert members[2].size == 3_000_000
    assert stream == b"".join(tar_stream(reversed(entries), uid=1000))


@pytest.mark.parametrize("length", [99, 100, 101, 989, 990, 991, 992, 993, 994])
def test_long_paths_are_as_tarfile_writes_them(length: int) -> None:
    """The number before a path has itself in it, so it is another one around 100 and 1000."""
    info = tarfile.TarInfo("a" * length)
    info.size = 3

    stream = b"".join(tar_stream([Entry(path="a" * length, content=b"abc")]))

    assert stream.startswith(info.tobuf(tarfile.PAX_FORMAT) + b"abc")


@given(st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5))
def test_what_goes_in_comes_out(content: dict[str, bytes]) -> None:
    names = sorted(content)
    # a name cannot be both a file and a folder
    names = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    stream = b"".join(tar_stream(Entry(path=name, content=content[name]) for name in names))

    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert found == {name: content[name] for name in names}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x"])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        Entry(path=path)


def test_a_folder_shares_files_with_the_store(tmp_path: Path) -> None:
    (tmp_path / "stored").write_bytes(b"x")
    write_folder(
        [
            Entry(path="wheels/w", content=tmp_path / "stored"),
            Entry(path="bin/p", content=b"#!", mode=0o755),
        ],
        tmp_path / "out",
    )

    assert (tmp_path / "out/wheels/w").samefile(tmp_path / "stored")
    assert os.access(tmp_path / "out/bin/p", os.X_OK)


def test_a_project_leaves_out_what_is_not_its_own(tmp_path: Path) -> None:
    for path in (
        "src/a.py", "tool", ".git/HEAD", "src/__pycache__/a.pyc", "my-env/pyvenv.cfg", "my-env/bin/python",
        "node_modules/x/y.js", ".stock/store/x", "data/.git-keep",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "tool").chmod(0o700)
    (tmp_path / "latest").symlink_to("src")
    (tmp_path / "gone").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "pipe")

    entries = list(project_entries(tmp_path, tmp_path / ".stock"))

    assert [(entry.path, entry.link, oct(entry.mode)) for entry in entries] == [
        ("gone", "/nowhere", "0o644"),
        ("latest", "src", "0o644"),
        ("tool", None, "0o755"),
        ("data/.git-keep", None, "0o644"),
        ("src/a.py", None, "0o644"),
    ]


@given(NAMES, st.binary(max_size=3000), st.sampled_from([0o644, 0o755]), st.integers(0, 65534))
def test_the_stream_is_what_tarfile_writes(path: str, content: bytes, mode: int, uid: int) -> None:
    infos = [tarfile.TarInfo(path[:at]) for at, char in enumerate(path) if char == "/"]
    for folder in infos:
        folder.uid, folder.gid, folder.mode, folder.type = uid, uid, 0o755, tarfile.DIRTYPE
    file = tarfile.TarInfo(path)
    file.uid, file.gid, file.mode, file.size = uid, uid, mode, len(content)
    expected = b"".join([*(info.tobuf(tarfile.PAX_FORMAT) for info in infos), shortest(file), content])

    stream = b"".join(tar_stream([Entry(path=path, content=content, mode=mode)], uid=uid))

    assert stream == expected + bytes(-len(content) % 512 + 1024)


def shortest(info: tarfile.TarInfo) -> bytes:
    """Give the header of POSIX.1-1988 where the path fits into one."""
    try:
        return info.tobuf(tarfile.USTAR_FORMAT if info.name.isascii() else tarfile.PAX_FORMAT)
    except ValueError:
        return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("prefix", [154, 155, 156])
@pytest.mark.parametrize("name", [99, 100, 101])
def test_long_paths_are_divided_at_a_slash(prefix: int, name: int) -> None:
    for path in ("p" * prefix + "/" + "n" * name, "p/" + "q" * (prefix - 2) + "/" + "n" * name):
        info = tarfile.TarInfo(path)
        stream = b"".join(tar_stream([Entry(path=path)]))
        assert stream.removesuffix(bytes(1024)).endswith(shortest(info))
        assert [member.name for member in read(stream) if member.isfile()] == [path]


def test_bytecode_lies_beside_its_source() -> None:
    paths = ["p/B.py", "p/__pycache__/B.cpython-311.pyc", "p/a.py", "p/__pycache__/a.cpython-311.pyc"]
    entries = [Entry(path=path) for path in paths]
    entries.append(Entry(path="p/__pycache__", mode=0o700, folder=True))

    stream = b"".join(tar_stream(entries))

    assert [member.name for member in read(stream)] == [
        "p",
        "p/__pycache__",
        paths[1],
        paths[0],
        paths[3],
        paths[2],
    ]
    assert read(stream)[1].mode == 0o700
    assert stream == b"".join(tar_stream(reversed(entries)))


@pytest.mark.parametrize("path", ["", "/a", "a/../b", "..", "a//b", "a/./b", "a/"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        Entry(path=path)


def test_any_owner_can_be_read() -> None:
    owners = [(0, 0), (8**7 - 1, 8**7 - 1), (8**7, 0), (0, 2**31)]
    entries = [Entry(path=f"f{n}", content=b"x", owner=owner) for n, owner in enumerate(owners)]

    with tarfile.open(fileobj=io.BytesIO(b"".join(plainly(tar(entries, lambda _: 0))))) as read:
        assert [(member.uid, member.gid) for member in read] == owners


def test_what_is_packed_is_not_compressed_again(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(bytes(3_000_000))
    entry = Entry(path="wheel", content=tmp_path / "wheel", packed=True)

    pieces = list(tar([entry], lambda _: 0))

    streams = [piece for piece in pieces if isinstance(piece, Deflated)]
    assert b"".join(gzip.decompress(piece.member) for piece in streams) == bytes(3_000_000)
    assert all(len(piece.plain) < len(piece.member) for piece in streams)
    assert b"".join(plainly(pieces)) == b"".join(tar_stream([Entry(path="wheel", content=bytes(3_000_000))]))
