"""lockstock.toml: defaults, and mistakes told with file, line and key."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from lockfiles.errors import ConfigError
from mirror.config import Config, load, load_or_default
from mirror.destinations import ObjectStoreSpec, RemoteDevpiSpec


def config(tmp_path: Path, text: str) -> Config:
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "lockstock.toml").write_text(text)
    return load(tmp_path / "lockstock.toml")


LOCK = '[locks.app]\npath = "requirements.txt"\n'
REMOTE = '[remote_devpi]\nurl = "https://devpi.example"\n'


def test_defaults(tmp_path: Path) -> None:
    found = config(tmp_path, LOCK)
    minor = platform.python_version().rpartition(".")[0]
    assert (found.root, found.keep, found.port) == (tmp_path / ".lockstock", 5, 3141)
    assert [str(target) for target in found.targets] == [f"{minor}/linux/{_arch()}/glibc2.36"]
    assert found.tools == ("uv",)


def _arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def test_every_python_for_every_platform(tmp_path: Path) -> None:
    targets = 'python = ["3.11", "3.12.4"]\nplatforms = ["linux/amd64", "linux/arm64/musl"]\nglibc = "2.28"\n'
    found = config(tmp_path, f"[targets]\n{targets}{LOCK}")
    assert [str(target) for target in found.targets] == [
        "3.11/linux/arm64/musl1.2",
        "3.11/linux/amd64/glibc2.28",
        "3.12.4/linux/arm64/musl1.2",
        "3.12.4/linux/amd64/glibc2.28",
    ]


@pytest.mark.parametrize("url", ["https://devpi.example/a", "http://127.0.0.1:3141", "http://10.1.2.3"])
def test_a_remote_devpi(tmp_path: Path, url: str) -> None:
    text = LOCK + f'[remote_devpi]\nurl = "{url}/"\nuser = "team"\n'
    assert config(tmp_path, text).remote_devpi == RemoteDevpiSpec(url=url, user="team", index="current")
    assert config(tmp_path, LOCK).remote_devpi is None


def test_an_object_store(tmp_path: Path) -> None:
    text = LOCK + '[object_store]\nbucket = "abc"\nprefix = "/a/b/"\nurl = "https://cdn.example/"\n'
    assert config(tmp_path, text).object_store == ObjectStoreSpec(
        bucket="abc", prefix="a/b", endpoint=None, url="https://cdn.example"
    )
    assert config(tmp_path, LOCK).object_store is None


def test_what_is_left_out_the_bases_of_images_tell(tmp_path: Path) -> None:
    images = '[images.a]\nbase = "debian:bookworm"\n[images.b]\nbase = "debian:trixie"\n'
    found = [str(target) for target in config(tmp_path, LOCK + images).targets]
    assert found == [f"3.11/linux/{_arch()}/glibc2.36", f"3.13/linux/{_arch()}/glibc2.36"]
    given = config(tmp_path, '[targets]\npython = ["3.12"]\nglibc = "2.28"\n' + LOCK + images)
    assert [str(target) for target in given.targets] == [f"3.12/linux/{_arch()}/glibc2.28"]
    unknown = config(tmp_path, LOCK + '[images.a]\nbase = "docker:own"\n[images.b]\nbase = 3\n')
    assert unknown.targets == config(tmp_path, LOCK).targets


def test_no_file_gives_the_defaults_where_none_is_needed(tmp_path: Path) -> None:
    assert load_or_default(tmp_path / "lockstock.toml").locks == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOCK + "[locks.App]\npath = 'requirements.txt'\n", ["lockstock.toml:3", "'App' is not a name"]),
        (LOCK + 'ref = "main"\n', ["locks.app.ref", "only together with `git`"]),
        (LOCK + 'git = "--upload-pack=x"\n', ["locks.app.git", "dash"]),
        (LOCK + "sdists_of = { numpy = 3 }\n", ["locks.app.sdists_of.numpy", "must be a string"]),
        (LOCK + "[mirror]\nkeep = 0\n", ["lockstock.toml:4", "mirror.keep", "at least 1"]),
        (LOCK + "[mirror]\nkeep = true\n", ["mirror.keep", "must be an integer"]),
        (LOCK + '[targets]\npython = ["2.7"]\n', ["targets", "2.7"]),
        (LOCK + "[targets]\npython = []\n", ["targets", "at least one"]),
        (LOCK + '[targets]\nglibc = "new"\n', ["targets", "new"]),
        (LOCK + "[image.app]\n", ["lockstock.toml:3", "image: unknown key", "'images'"]),
        (LOCK + "[object_store]\n", ["object_store", "'bucket' is missing"]),
        (LOCK + '[object_store]\nbucket = "../x"\n', ["object_store.bucket", "do not belong"]),
        (LOCK + '[object_store]\nbucket = "abc"\nprefix = "a/../b"\n', ["object_store.prefix"]),
        (LOCK + f'[object_store]\nbucket = "abc"\nprefix = "{"a" * 5000}!"\n', ["object_store.prefix"]),
        (
            LOCK + '[object_store]\nbucket = "abc"\nendpoint = "https://me:hunter2@objects.example"\n',
            ["object_store.endpoint", "may not carry credentials"],
        ),
        (LOCK + '[object_store]\nbucket = "abc"\nurl = "ftp://x"\n', ["object_store.url", "http or https"]),
        (LOCK + '[object_store]\nbucket = "abc"\nurl = "http://h:abc"\n', ["object_store.url", "not a URL"]),
        (LOCK + "[remote_devpi]\n", ["remote_devpi", "'url' is missing"]),
        (
            LOCK + '[remote_devpi]\nurl = "http://devpi.example"\nuser = "a"\n',
            ["remote_devpi.url", "must be an https URL"],
        ),
        (
            LOCK + '[remote_devpi]\nurl = "https://a:hunter2@devpi.example"\nuser = "a"\n',
            ["remote_devpi.url", "may not carry credentials"],
        ),
        (LOCK + f'{REMOTE}user = "a/b"\n', ["remote_devpi.user", "is not the name"]),
        (LOCK + f'{REMOTE}user = "a"\nindex = "s-x"\n', ["remote_devpi.index", "may not begin"]),
        (LOCK + f'{REMOTE}user = "a"\npassword = "hunter2"\n', ["password"]),
        (LOCK + "[mirror]\nport = 70000\n", ["lockstock.toml:4", "mirror.port", "at most 65535"]),
        (LOCK + '[mirror]\nurl = "http://[x"\n', ["lockstock.toml:4", "mirror.url", "is not a URL"]),
        (LOCK + '[mirror]\nurl = "ftp://x"\n', ["mirror.url", "http or https"]),
        (LOCK + '[mirror]\nurl = "https://me:hunter2@x"\n', ["mirror.url", "may not carry credentials"]),
        (LOCK + '[[upstream]]\nindex = "http://me:hunter2@[x"\n', ["upstream[0].index", "is not a URL"]),
        (LOCK + '[[upstream]]\nindex = "http://me:hunter2@\u2100"\n', ["upstream[0].index", "is not a URL"]),
        (LOCK + '[[upstream]]\nindex = "http://me:hunter2@x:99999"\n', ["upstream[0].index", "not a URL"]),
        (LOCK + "[[upstream]]\n", ["upstream[0]", "'index' is missing"]),
        ("locks = 3\n", ["lockstock.toml:1", "locks", "must be a table"]),
        ("[[locks]]\n", ["locks", "must be a table"]),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, text)
    told = f"{caught.value} {caught.value.hint}"
    assert [word for word in words if word not in told] == [], told
    assert "hunter2" not in told


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "lockstock.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"lockstock\.toml"):
        load(tmp_path / "lockstock.toml")
