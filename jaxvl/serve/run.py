# SPDX-License-Identifier: Apache-2.0
"""The server's process: its address, its signals, its end."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from jaxvl.distributed import multihost
from jaxvl.distributed.preemption import Stopped
from jaxvl.errors import UserError
from jaxvl.serve.app import LOCAL, Server

DEADLINE = 60  # seconds in which requests under way may end when the server is asked to stop


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, before a model is loaded for it; it does not listen yet."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as held:
            found = held.enter_context(socket.socket(family, kind, proto))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            held.pop_all()
            return found
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: {error.strerror or error}; choose another"
        ) from None


def check_host(host: str, key: str) -> None:
    """UserError for an address that others reach without a key."""
    if host not in LOCAL and not key:
        raise UserError(
            f"--host {host}: others may reach it, and there is no key; give --key NAME, the "
            "environment variable that holds one, or leave --host at 127.0.0.1"
        )


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """SIGTERM and SIGINT, raised again when requests under way have ended, end the process with
    the exit codes of a run."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(server: Server, at: socket.socket) -> None:
    """Serves until a signal. Nothing more is taken then, and what is under way may end."""
    config = uvicorn.Config(
        server.app(),
        loop="asyncio",
        http="h11",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DEADLINE,
    )
    with stopping():
        try:
            uvicorn.Server(config).run([at])
        except Stopped as stopped:
            if not server.ended:  # as while a program is compiled: a thread cannot be made to end
                assert isinstance(stopped.code, int)
                multihost.leave(stopped.code, "the devices were not at an end")
            raise
