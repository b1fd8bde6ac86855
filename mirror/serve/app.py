"""`mirror serve`: one port for everything, devpi as a child behind it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from mirror.layout import Layout
from mirror.publish import devpi_process, devpi_server, devpi_state
from mirror.serve.index import Index
from mirror.serve.npm import NpmRegistry
from mirror.serve.proxy import Proxy
from mirror.serve.readers import Readers
from mirror.serve.views import DEVPI_TOP, Views

_GRACE = 5.0  # seconds for answers under way when the server is stopped
_WATCH = 0.5


def serve(
    layout: Layout,
    host: str,
    port: int,
    started: Callable[[str], None],
    *,
    in_house: bool = False,
    private: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, and give the exit code; devpi's end is the end.

    Once all can be reached `started` is called with the address that is listened on, as numbers.
    With `in_house`, devpi's stable index is looked into for what the tree lacks; with `private`, only
    accounts may read.
    Raises RegistryError when this mirror is served already, or the port is taken.
    """
    pages = devpi_process.has_web()
    backend, listener = devpi_server.start_behind(layout.devpi, host, port, web=pages)
    with backend, listener:
        app = application(layout, backend.port, in_house=in_house, private=private, pages=pages)
        return asyncio.run(_serve(app, listener, started, backend, layout.devpi))


def application(
    layout: Layout, backend: int, *, in_house: bool = False, private: bool = False, pages: bool = False
) -> web.Application:
    """Make the application; `backend` is the port of devpi, which with `pages` has some for people."""
    proxy = Proxy(backend)

    async def beside(project: str) -> str | None:
        path = f"/{devpi_state.USER}/{devpi_state.STABLE}/+simple/{project}/"
        return path if await proxy.has(path) else None

    async def top(request: web.Request) -> web.StreamResponse:
        return await (proxy.top if _is_devpis(request) else views.page)(request)

    index = Index(layout.tree, beside if in_house else None)
    views = Views(layout, index, devpi_pages=pages)
    readers = Readers(proxy) if private else None
    app = web.Application(middlewares=[readers.middleware()] if readers else [])
    if readers:
        app.on_response_prepare.append(readers.keep_private)
    app.cleanup_ctx.append(proxy.run)
    app.add_routes([*index.routes(), *NpmRegistry(index).routes(), *views.routes()])
    app.router.add_get("/", top)
    if pages:
        app.router.add_get(f"/{DEVPI_TOP}", proxy.top)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    return app


def _is_devpis(request: web.Request) -> bool:
    """Say whether a client of devpi asks for all users, which it does at the top."""
    accept = request.headers.get("Accept", "")
    return "application/json" in accept and "text/html" not in accept


async def _serve(
    app: web.Application,
    listener: socket.socket,
    started: Callable[[str], None],
    backend: devpi_server.Server,
    folder: Path,
) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        started(listener.getsockname()[0])
        while not stopped.is_set() and backend.exit_code is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _WATCH)
            if devpi_state.is_being_written(folder):  # by a refresh that may have been killed
                await asyncio.to_thread(devpi_state.recover, folder, patience=0)
    finally:
        await runner.cleanup()
    return 0 if stopped.is_set() else backend.exit_code or 1  # devpi ends with 0 after a fatal error, too
