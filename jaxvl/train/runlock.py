# SPDX-License-Identifier: Apache-2.0
"""One run in a directory at a time.

`run.lock` names who is at work there and is touched every few seconds. A process of the same
machine that is gone is seen at once; of another machine all there is to see is whether the lock
still beats, which is waited for. Clocks of two machines are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

FILE = "run.lock"
BEAT_SECONDS = 10.0
EXPIRES_SECONDS = 60.0  # without a beat after which a lock is nobody's


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Nobody else runs in `run_dir` meanwhile. UserError where somebody does already."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _Lock(run_dir / FILE)
        lock.take()
    except UserError:
        raise
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"run.dir = {run_dir} is, or is in, a file; choose a directory") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"run.dir = {run_dir} cannot be written ({error}); choose a directory that can"
        ) from None
    try:
        yield
    finally:
        lock.release()


class _Lock:
    def __init__(self, file: Path):
        self.file, self._done = file, threading.Event()
        self.mine = {"word": secrets.token_hex(8), "pid": os.getpid(), "beat": 0, **_place()}
        self.mine["inode"] = file.parent.stat().st_ino

    def take(self) -> None:
        deadline, seen = 0.0, None
        while not self._create():
            if self.file.exists() and not self.file.is_file():
                raise UserError(
                    f"{self.file} is no file, and none that a run has made; move it away"
                )
            other = _read(self.file)
            if other is None or self._is_over(other):
                self._replace()
                break
            if seen not in (None, other["beat"]) or other["place"] == self.mine["place"]:
                raise UserError(_taken(self.file, other))
            if seen is None:
                seen, deadline = other["beat"], time.monotonic() + EXPIRES_SECONDS
                print(
                    f"{self.file} is held by {_who(other)}: waiting up to {EXPIRES_SECONDS:.0f} s "
                    "to see whether it lives",
                    flush=True,
                )
            if time.monotonic() > deadline:
                print(f"{self.file}: no sign of life, the run goes on here", flush=True)
                self._replace()
                break
            time.sleep(min(BEAT_SECONDS / 2, EXPIRES_SECONDS / 4))
        threading.Thread(target=self._keep, daemon=True).start()

    def release(self) -> None:
        if os.getpid() != self.mine["pid"]:  # a child that something in the run has forked
            return
        self._done.set()
        with contextlib.suppress(OSError):
            now = _read(self.file)
            if now and now["word"] == self.mine["word"]:
                self.file.unlink()

    def _create(self) -> bool:
        """Write the lock where there is none."""
        try:
            with open(self.file, "x", encoding="utf-8") as file:
                file.write(json.dumps(self.mine))
            return True
        except FileExistsError:
            return False

    def _is_over(self, other: dict[str, Any]) -> bool:
        """Whether the holder is a process of this machine that is gone, or this very one, or works
        in another directory, of which this one is a copy."""
        if other["place"] != self.mine["place"]:
            return False
        if other.get("inode", self.mine["inode"]) != self.mine["inode"]:
            return True  # no device beside it: two mounts of one share may differ in that
        return other["pid"] == os.getpid() or _started(other["pid"]) != other["started"]

    def _replace(self) -> None:
        self._write()
        time.sleep(0.2)  # of two that found it free the last one has it
        now = _read(self.file)
        if now and now["word"] != self.mine["word"]:
            raise UserError(_taken(self.file, now))

    def _write(self) -> None:
        part = self.file.with_name(f"{FILE}.{self.mine['word']}")
        part.write_text(json.dumps(self.mine), encoding="utf-8")
        os.replace(part, self.file)

    def _keep(self) -> None:
        """Beat until released. A process that was stopped for so long that another has taken over
        ends: two would write into the same files."""
        while not self._done.wait(BEAT_SECONDS):
            try:
                other = _read(self.file)
                if other and other["word"] != self.mine["word"]:
                    print(f"error: {_taken(self.file, other)}", file=sys.stderr, flush=True)
                    os._exit(1)
                self.mine["beat"] += 1
                self._write()
            except OSError:  # for a while, or for good: what writes there next will tell
                continue


def _place() -> dict[str, Any]:
    """The machine (or container), and when this process started there."""
    place = socket.gethostname()
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            path = Path(file)
            place += f" {os.readlink(path) if path.is_symlink() else path.read_text().strip()}"
    return {"host": socket.gethostname(), "place": place, "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """What tells a process from another one that had its number; empty where there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return ""
    except PermissionError:
        pass  # another user's
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "running"  # no /proc here


def _read(file: Path) -> dict[str, Any] | None:
    """Who holds the lock; None where the file is gone or torn."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"word": str, "pid": int, "beat": int, "host": str, "place": str, "started": str}
    whole = isinstance(found, dict) and all(isinstance(found.get(k), kinds[k]) for k in kinds)
    return found if whole else None


def _taken(file: Path, other: dict[str, Any]) -> str:
    return (
        f"another run is at work in {file.parent} ({_who(other)}); wait for it, end it, or choose "
        "another run.dir"
    )


def _who(other: dict[str, Any]) -> str:
    return f"process {other['pid']} on {other['host']}"
