"""pip-compile for a machine other than this one; run as `python -m mirror.pip_compile TARGET ARGS…`.

pip evaluates markers, Requires-Python and wheel tags for the Python it runs on. In this child
process, and only here, it is told that it runs on the target.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from lockfiles.target import Target


def impersonate(target: Target) -> None:
    """Make pip in this process resolve for `target`."""
    from pip._internal.index import package_finder
    from pip._internal.models.target_python import TargetPython
    from pip._internal.resolution.resolvelib import factory
    from pip._internal.resolution.resolvelib.candidates import RequiresPythonCandidate
    from pip._vendor.packaging import markers

    environment = dict(target.environments[0])
    version = tuple(int(part) for part in str(environment["python_full_version"]).split("."))
    platforms = list(dict.fromkeys(tag.platform for tag in target.tags if tag.platform != "any"))

    def requires_python(_info: Any) -> Any:
        return RequiresPythonCandidate(version)

    vars(markers)["default_environment"] = lambda: dict(environment)
    vars(factory)["RequiresPythonCandidate"] = requires_python
    vars(package_finder)["TargetPython"] = functools.partial(
        TargetPython, platforms=platforms, py_version_info=version, implementation="cp"
    )


def main() -> None:
    """Run pip-compile with the arguments that follow the target's text form."""
    impersonate(Target.parse(sys.argv[1]))
    from piptools.scripts.compile import cli

    cli(sys.argv[2:], prog_name="pip-compile")


if __name__ == "__main__":
    main()
