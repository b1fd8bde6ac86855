"""Composition root of the `mirror` command."""

from __future__ import annotations

from mirror.cli import app
from mirror.console import run


def main() -> None:
    """Run `mirror` and end the process with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
