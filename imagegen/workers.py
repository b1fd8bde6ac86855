"""A few threads that work off what they are given, and that the end of the process does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


class Workers:
    """Like ThreadPoolExecutor, whose threads are joined by a process that ends.

    Ctrl-C, and a build that fails, would wait there for a registry that is slow to answer.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        for _ in range(count):
            Thread(target=self._work, daemon=True).start()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Have something called, in the order of what is given."""
        future: Future[_T] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # it belongs to whoever asks for the result
                future.set_exception(error)

        self._waiting.put(work)
        return future

    def close(self) -> None:
        """Forget what nobody has begun; whoever is at work ends with that."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _ in range(self._count):
            self._waiting.put(None)

    def _work(self) -> None:
        while work := self._waiting.get():
            work()
