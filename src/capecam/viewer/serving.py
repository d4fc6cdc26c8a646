"""``capecam view``: the server on its socket, and the browser in front of it."""

from __future__ import annotations

import errno
import socket
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import uvicorn

from capecam.errors import UsageError
from capecam.viewer.app import make_app
from capecam.viewer.security import Access
from capecam.viewer.served_runs import ServedRuns

PORT = 8321
"""Port on which the page is expected: links into it keep working the next day."""

TRIED = 20
"""Ports that are tried if none is asked for."""

PATIENCE_S = 2
"""Time that requests have to end when the server stops."""


def serve(
    outs: Sequence[Path], *, host: str = "127.0.0.1", port: int | None = None, browser: bool = True
) -> None:
    """Serve one or two runs until the process is interrupted.

    Args:
        outs: folders of the runs.
        host: address to listen on.
        port: port to listen on; None: ``PORT``, or the next that is free.
        browser: whether to open the page.

    Raises:
        OutputError: a folder holds no finished run.
        UsageError: the address cannot be used.
    """
    with closing(_listen(host, port)) as sock:
        access = Access.of(host, sock.getsockname()[1])
        with ServedRuns.open(outs) as city, suppress(KeyboardInterrupt):
            print(access.url, flush=True)
            if browser:  # it may wait for the browser to end
                threading.Thread(target=webbrowser.open, args=[access.url], daemon=True).start()
            config = uvicorn.Config(
                make_app(city, access),
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=PATIENCE_S,
            )
            _Server(config, city).run(sockets=[sock])


class _Server(uvicorn.Server):
    """Server that ends what requests wait for, before it waits for them to end.

    Args:
        config: see uvicorn.
        city: whose outlines may still be in the making.
    """

    def __init__(self, config: uvicorn.Config, city: ServedRuns) -> None:
        super().__init__(config)
        self._city = city

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        for served in self._city.runs:
            served.prepared.close()
        self._city.explainer.close()
        await super().shutdown(sockets)


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens, so that a browser waits for the server instead of failing."""
    tried, last = (PORT, PORT + TRIED - 1) if port is None else (port, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, tried))
            sock.listen()
        except (OSError, OverflowError) as error:
            sock.close()
            if getattr(error, "errno", None) != errno.EADDRINUSE or tried == last:
                raise UsageError(
                    f"cannot listen on {host}, port {tried} ({error}); give another --port, or a "
                    "--host of this machine"
                ) from error
            tried += 1
        else:
            return sock
