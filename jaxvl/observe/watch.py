# SPDX-License-Identifier: Apache-2.0
"""`jaxvl watch`: the page of a run while it goes on, or of all runs in a directory.

A server for this machine's own browser: it listens on 127.0.0.1 alone, answers no page of another
origin, and reads no file outside of the directory. A request names a run and a step by number, no
path.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jaxvl.errors import UserError
from jaxvl.observe import browse, curves, report
from jaxvl.observe.curves import inside
from jaxvl.observe.metrics import FILE

HOST = "127.0.0.1"


class Refused(Exception):
    """A request that is not answered, and its status."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Watched:
    """What a directory's pages ask for: the directory is a run, or holds runs."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"no directory {folder}; expected that of a run, or of several runs")
        self._rollouts: dict[Path, browse.Rollouts] = {}
        self._lock = threading.Lock()

    def runs(self) -> list[Path]:
        """The directories with metrics, by name."""
        if inside(self.folder, FILE) and (self.folder / FILE).is_file():
            return [self.folder]
        found = [path for path in self.folder.iterdir() if inside(self.folder, path / FILE)]
        return sorted(path for path in found if (path / FILE).is_file())

    def state(self) -> str:
        """A word that changes when what is shown of the runs does."""
        parts = []
        for run in self.runs():
            names = (FILE, "eval.json", "finished.json")
            files = [file for name in names if (file := run / name).is_file()]
            parts.append([str(part) for part in browse.state(files)])
        return json.dumps(parts)

    def document(self) -> dict[str, Any]:
        """All that the page starts with, and is sent anew when a run goes on."""
        state, runs = self.state(), []
        for run in self.runs():
            steps = list(self._of(run).files())
            runs.append(curves.curves(run) | {"rollouts": steps, "left_out": ""})
        return report.document(runs, live=True) | {"state": state}

    def step(self, run: Path, step: int) -> dict[str, Any]:
        files = self._of(run).files().get(step)
        if not files:
            raise Refused(404, f"no rollouts of step {step}")
        return self._of(run).step(files)

    def outline(self, run: Path) -> dict[str, Any]:
        rollouts = self._of(run)
        right = curves.curves(run)["right"]
        with self._lock:  # two pages read all files once
            outlines = {step: rollouts.outline(of, right) for step, of in rollouts.files().items()}
        return report.table(outlines)

    def _of(self, run: Path) -> browse.Rollouts:
        return self._rollouts.setdefault(run, browse.Rollouts(run))

    def answer(self, target: str) -> tuple[str, bytes]:
        """The content type and body of a request's answer. Refused where it has none."""
        url = urlsplit(target)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/":
            return "text/html; charset=utf-8", "".join(report.page(self.document(), {})).encode()
        if url.path == "/data":
            same = asked.get("seen") == self.state()
            return _json({"same": True} if same else self.document())
        if url.path == "/outline":
            return _json(self.outline(self._run(asked)))
        if url.path == "/step":
            return _json(self.step(self._run(asked), _number(asked, "step")))
        raise Refused(404, "there is no such page")

    def _run(self, asked: dict[str, str]) -> Path:
        runs, number = self.runs(), _number(asked, "run")
        if number >= len(runs):
            raise Refused(404, f"no run {number}")
        return runs[number]


def _number(asked: dict[str, str], name: str) -> int:
    text = asked.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise Refused(400, f"{name}: expected a number")
    return int(text)


def _json(data: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")


def serve(folder: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """The server of a directory, bound to 127.0.0.1 (port 0: a free one) and not yet running."""
    watched = Watched(folder)
    try:
        server = ThreadingHTTPServer((HOST, port), _handler(watched))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port}: {error}; choose another with --port") from None
    server.daemon_threads = True
    return server


def _handler(watched: Watched) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "jaxvl", ""

        def do_GET(self) -> None:
            try:
                self._check_host()
                kind, body = watched.answer(self.path)
                status = 200
            except Refused as refused:
                status, kind, body = refused.status, "text/plain", str(refused).encode()
            except (UserError, OSError) as error:
                status, kind, body = 500, "text/plain", str(error).encode("utf-8", "replace")
            except report.BROKEN as error:
                body = f"{report.NOT_AS_WRITTEN} ({error})".encode("utf-8", "replace")
                status, kind = 500, "text/plain"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the page was closed
                self.wfile.write(body)

        def _check_host(self) -> None:
            """A name of elsewhere that was made to point here is another origin's page."""
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in (HOST, "localhost"):
                raise Refused(403, f"expected the host {HOST}")

        def log_message(self, *of: Any) -> None:
            pass  # a line a request would hide the run's own

    return Handler
