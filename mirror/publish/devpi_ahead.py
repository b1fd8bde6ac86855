"""devpi in a process of its own, made ready while the files for it are still fetched.

To import, make and start devpi takes longer than to fill it. What that process holds ends with its
`with` block, at once where that fails, and with the process that began it, however that ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exc
from typing import Any, ParamSpec, TypeVar

from mirror.errors import RegistryError
from mirror.publish import devpi_server, devpi_stage, devpi_state

_P = ParamSpec("_P")
_T = TypeVar("_T")
_server: devpi_server.Server | None = None  # of the process that is ahead


class Ahead:
    """Works on the registry in `folder`. The caller holds the mirror, and has no threads when this begins.

    Until it is told to `start`, it leaves the processors to the caller. A `private` registry is served no
    longer than it is looked at, for devpi alone lets in everybody.
    """

    def __init__(self, folder: Path, port: int, *, private: bool = False) -> None:
        self._folder = folder
        self._port = port
        self._private = private

    def __enter__(self) -> Ahead:
        context = get_context("fork")  # which knows what is imported already
        self._there, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, self._there, os.getpid()))
        self._process.start()
        there.close()  # so that its end is heard of
        self._asking = ThreadPoolExecutor(1)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed:
            self._process.kill()  # nobody waits for what it does; its server ends with it
        self._asking.shutdown(cancel_futures=True)
        with suppress(OSError):  # where it was ended
            self._there.send(None)
        self._process.join()
        self._there.close()

    def start(self) -> None:
        """Have devpi made ready. What fails in it is tried again, and told, when it is needed."""
        self.begin(_make_ready, self._folder, None if self._private else self._port)

    def expect(self, files: Sequence[tuple[Path, str]]) -> None:
        """Have the metadata of files, each (path, file name), read as they come."""
        self.begin(devpi_stage.read_early, files)

    def call(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Call a function of devpi's modules there. Raises what it raises, and RegistryError."""
        return self.begin(function, *args, **named)()

    def begin(self, function: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> Callable[[], _T]:
        """Have a function called there, and give what waits for its result and raises as `call` does."""
        return self._asking.submit(self._ask, function, args, named).result

    def _ask(self, *request: object) -> Any:
        try:
            self._there.send(request)
            result, error = self._there.recv()
        except (OSError, EOFError) as ended:
            raise RegistryError(
                "the process that writes devpi's state was ended",
                where=str(self._folder),
                hint="run it again",
            ) from ended
        if error:
            raise error
        return result

    def index_url(self) -> str:
        """Give the URL of the stable index, which is served until this ends. Raises RegistryError."""
        return self.call(_serve, self._folder, self._port)


def _work(here: Connection, there: Connection, parent: int) -> None:
    """Do what is asked for until the parent has no more."""
    there.close()
    _begin(parent)
    for function, args, named in iter(here.recv, None):
        answer: tuple[Any, Exception | None]
        try:
            answer = function(*args, **named), None
        except Exception as error:
            error.add_note(format_exc())
            answer = None, error
        here.send(answer)
    if _server is not None:
        _server.stop()


def _begin(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it ends; devpi's storage is safe to be cut off."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    devpi_server.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _make_ready(folder: Path, served: int | None) -> None:
    devpi_state.init(folder)
    devpi_state.load()
    if served is not None:
        _serve(folder, served)


def _serve(folder: Path, port: int) -> str:
    """Give the URL of a server that runs, or start one; its port is free, for people may need theirs."""
    global _server
    if _server is None or _server.process is None or _server.exit_code is not None:
        _server = devpi_server.start(folder, port, private=True)
    return _server.index_url
