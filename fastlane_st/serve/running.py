"""Runs the application in uvicorn, on a socket that is bound before anything is loaded."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from types import FrameType
from typing import Any

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept: longer than clients keep theirs, which then close first."""

STOP_SECONDS = 120
"""How long a stop waits for the requests that were accepted."""

BACKLOG = 2048


def bound_socket(host: str, port: int) -> socket.socket:
    """Binds an address; connections are refused until it listens.

    Args:
        host: Name or address.
        port: 0 takes a free one.

    Raises:
        ValueError: The port can't be one.
        OSError: The address is in use or isn't this machine's; the message names it.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be between 0 and 65535, got {port}")
    try:
        [found, *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found
        bound = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there it lets others take the port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        hint = "; take another port" if error.errno == errno.EADDRINUSE else ""
        raise OSError(f"can't listen at {host}:{port}: {error.strerror or error}{hint}") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a bound socket."""
    host = str(bound.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def uvicorn_server(app: Any) -> Any:
    """A uvicorn server for an application; it logs as the process does, and no requests."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(config)


def run(app: Any, bound: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C, and then until the requests that were accepted are answered.

    After SIGTERM the process ends with code 0, and Ctrl-C raises KeyboardInterrupt.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)  # uvicorn raises the signal again once it has stopped
    uvicorn_server(app).run(sockets=[bound])
