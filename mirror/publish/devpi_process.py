"""devpi-server with the plugins that are wanted, as a module to run and for writing to its storage.

devpi-server itself loads what is installed, and devpi-web, which is for people's eyes, makes each start
take twice as long. So it is loaded only where people look: by `mirror serve`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

WITH_WEB = "--lockstock-web"  # the first argument
_WEB = "devpi-web"
_SEARCH = "devpi-web-whoosh"  # in whose place mirror.publish.devpi_search is


def has_web() -> bool:
    """Say whether devpi-web is installed."""
    return find_spec("devpi_web") is not None


def plugins(*, web: bool = False) -> Any:
    """Give devpi-server's plugin manager with all that is installed, but with devpi-web only if asked for."""
    from devpi_server import config

    # Nobody's configuration file is to be read, and the parser for it takes long to import.
    config.load_config_file = lambda _: {}
    manager = config.get_pluginmanager(load_entrypoints=False)
    for name in (_SEARCH,) if web else (_SEARCH, _WEB):
        manager.set_blocked(name)
    manager.load_setuptools_entrypoints("devpi_server")
    if web:
        from mirror.publish import devpi_search

        manager.register(devpi_search)
    manager.check_pending()
    return manager


def main() -> int:
    """Run devpi-server with the arguments of this process, and give its exit code."""
    from devpi_server.main import CommandRunner, _main

    web = WITH_WEB in sys.argv[1:2]
    arguments = sys.argv[2:] if web else sys.argv[1:]
    search = ["--indexer-backend=lockstock"] if web else []
    with CommandRunner(pluginmanager=plugins(web=web)) as runner:
        runner.return_code = _main(runner.pluginmanager, argv=["devpi-server", *arguments, *search])  # type: ignore[no-untyped-call]  # untyped there
    return int(runner.return_code or 0)


if __name__ == "__main__":
    sys.exit(main())
