"""devpi in a process of its own, made ready while the files for it are still fetched.

To import, make and start devpi takes longer than to fill it. What that process holds ends with its
`with` block, and with the process that began it, however that ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

from mirror.errors import RegistryError
from mirror.publish import devpi, devpi_server

_P = ParamSpec("_P")
_T = TypeVar("_T")
_server: devpi_server.Server | None = None  # of the process that is ahead


class Ahead:
    """Works on the registry in `folder`. The caller holds the mirror, and has no threads when this begins.

    A `private` one is served no longer than it is looked at, for devpi alone lets in everybody.
    """

    def __init__(self, folder: Path, port: int, *, private: bool = False) -> None:
        self._folder = folder
        self._port = port
        self._private = private

    def __enter__(self) -> Ahead:
        # A fork knows what is imported already.
        self._pool = ProcessPoolExecutor(1, get_context("fork"), _begin, (os.getpid(),))
        # What fails here fails again, and is told, when devpi is to be filled or asked.
        self._pool.submit(_make_ready, self._folder)
        if not self._private:
            self._pool.submit(_serve, self._folder, self._port)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenProcessPool):
            self._pool.submit(_end)
        self._pool.shutdown()

    def call(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Call a function of `mirror.publish.devpi` there. Raises what it raises, and RegistryError."""
        return self.begin(function, *args, **named)()

    def begin(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> Callable[[], _T]:
        """Have a function called there, and give what waits for its result and raises as `call` does."""
        with self._pool_lives():
            task = self._pool.submit(function, *args, **named)

        def result() -> _T:
            with self._pool_lives():
                return task.result()

        return result

    @contextmanager
    def _pool_lives(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise RegistryError(
                "the process that writes devpi's state was ended",
                where=str(self._folder),
                hint="run it again",
            ) from error

    def index_url(self) -> str:
        """Give the URL of the stable index, which is served until this ends. Raises RegistryError."""
        return self.call(_serve, self._folder, self._port)


def _begin(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it ends; devpi's storage is safe to be cut off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    devpi_server.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _make_ready(folder: Path) -> None:
    devpi.init(folder)
    devpi.load()


def _serve(folder: Path, port: int) -> str:
    """Give the URL of a server that runs, or start one; its port is free, for people may need theirs."""
    global _server
    if _server is None or _server.process is None or _server.exit_code is not None:
        _server = devpi_server.start(folder, port, private=True)
    return _server.index_url


def _end() -> None:
    if _server is not None:
        _server.stop()
