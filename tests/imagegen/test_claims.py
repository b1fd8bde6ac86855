from __future__ import annotations

import re
from itertools import combinations
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.claims import Claims, check_together
from imagegen.errors import CollisionError, WheelError

SITE = "opt/venv/lib/python3.11/site-packages"


def claims(package: str, *files: str, digest: str = "a", scripts: tuple[tuple[str, str], ...] = ()) -> Claims:
    return Claims(package=package, files={f"{SITE}/{file}": digest for file in files}, scripts=scripts)


class TestFiles:
    def test_one_that_two_want(self) -> None:
        found = [claims("one", "a.py", "b.py"), claims("two", "c.py"), claims("three", "b.py", digest="b")]

        with pytest.raises(CollisionError, match=f"this and one both want to be /{SITE}/b.py") as caught:
            check_together(found)

        assert caught.value.where == "three"

    def test_equal_ones_go_together(self) -> None:
        check_together([claims("one", "space/__init__.py"), claims("two", "space/__init__.py")])

    @pytest.mark.parametrize("swapped", [True, False])
    def test_one_that_is_a_folder_of_another(self, swapped: bool) -> None:
        found = [claims("one", "a"), claims("other", "b.py"), claims("two", "a/deep/b.py")]

        with pytest.raises(CollisionError, match=f"/{SITE}/a is a folder of it, and a file of one") as caught:
            check_together(found[::-1] if swapped else found)

        assert caught.value.where == "two"

    @given(st.lists(st.dictionaries(st.text("ab/", min_size=1, max_size=5), st.sampled_from("xy"))))
    def test_every_collision_is_found(self, wanted: list[dict[str, str]]) -> None:
        wanted = [{path: of for path, of in files.items() if is_path(path)} for files in wanted]
        paths = {path for files in wanted for path in files}
        collide = any(
            one[path] != two[path] for one, two in combinations(wanted, 2) for path in one.keys() & two
        )
        collide |= any(str(above) in paths for path in paths for above in PurePosixPath(path).parents)

        try:
            check_together(Claims(package=f"{number}", files=files) for number, files in enumerate(wanted))
        except CollisionError:
            assert collide
        else:
            assert not collide


def is_path(path: str) -> bool:
    return not re.search("^/|//|/$", path)


class TestScripts:
    @pytest.mark.parametrize(
        "module",
        ["alpha", "alpha.cli", "alpha.deep", "native", "other", "other.part", "json", "json.tool"],
    )
    def test_a_module_that_is_there(self, module: str) -> None:
        own = claims(
            "own",
            "alpha/__init__.py",
            "alpha/cli.py",
            "alpha/deep/data.txt",
            "native.cpython-311-x86_64-linux-gnu.so",
            scripts=(("run", module),),
        )

        check_together([claims("before", "x.py"), own, claims("later", "other/part.py")])

    @pytest.mark.parametrize("module", ["beta", "alph", "alpha.c", "alpha.data", "alpha.cli.more", "cli", ""])
    def test_one_that_is_not(self, module: str) -> None:
        own = claims("own", "alpha/cli.py", "alpha/data.txt", "alphabet.py", scripts=(("run", module),))

        with pytest.raises(WheelError, match=f"its script 'run' calls {module}, and no package") as caught:
            check_together([own, claims("other", "other.py")])

        assert caught.value.where == "own"
        check_together([own], scripts=False)

    def test_a_program_is_no_module(self) -> None:
        own = Claims(package="own", files={"opt/venv/bin/tool.py": "a"}, scripts=(("run", "tool"),))

        with pytest.raises(WheelError):
            check_together([own])
