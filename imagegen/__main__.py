"""The `imagegen` command."""

from __future__ import annotations

from mirror.console import run


def main() -> None:
    """Run `imagegen` and end the process with its exit code."""
    run(_command)


def _command() -> None:
    from imagegen.commands import app  # takes the longest, and Ctrl-C is answered from here on

    app()


if __name__ == "__main__":
    main()
