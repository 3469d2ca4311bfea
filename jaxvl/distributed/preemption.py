# SPDX-License-Identifier: Apache-2.0
"""A run that is asked to stop: it finishes the step it is in, saves, and says so by its exit code.

SIGTERM is what a cloud that takes machines back sends, and a scheduler whose time is up; SIGINT is
Ctrl-C; SIGHUP a terminal that is closed.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from jaxvl.distributed import multihost

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(SystemExit):
    """The run was asked to stop and did; its newest checkpoint is whole. The exit code is what a
    shell gives a process that the signal ended (143, 130, 129): schedulers see that the run is not
    finished."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__(128 + number)


class PreemptionHandler:
    """As a context manager, hears the signals of this process.

    While steps are done (from `hold` to `release`) the first signal stops the run after the step it
    is in; a second one ends it at once, and so does the first one where there is nothing to save,
    as while programs are compiled. `last` is called before such an end.

    Signals are heard in a thread: the main one may be in a compiler that does not listen. But in a
    notebook, or at Python's prompt, Ctrl-C never ends the process: it raises KeyboardInterrupt, at
    once or after the step that is saved, and the same call goes on from there.
    """

    def __init__(self, last: Callable[[], None] = lambda: None):
        self._holds, self._last, self._asked = False, last, 0
        self._session = hasattr(sys, "ps1")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> PreemptionHandler:
        if threading.current_thread() is not threading.main_thread():
            return self  # no other may hear signals
        wanted = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup's wish
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._before = {n: signal.signal(n, lambda number, frame: None) for n in wanted}
        if self._session and signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, lambda number, frame: self._interrupt())
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._mouth.close()
        if self._session and isinstance(error, Stopped) and self._asked == signal.SIGINT:
            raise KeyboardInterrupt("stopped and saved: the same call goes on from here") from None

    def hold(self) -> None:
        """There is something to save: from now on the first signal waits for the end of a step."""
        self._holds = True

    def release(self) -> None:
        """There is nothing to save: from now on the first signal ends the run at once."""
        self._holds = False

    def _listen(self) -> None:
        with self._ear:
            while heard := self._ear.recv(64):
                for number in heard:
                    if number in self._before and not (self._session and number == signal.SIGINT):
                        self._handle(number)

    def _interrupt(self) -> None:
        """Ctrl-C where a person goes on with the process."""
        if self._asked or not self._holds:
            raise KeyboardInterrupt
        self._stop_after_step(signal.SIGINT)

    def _stop_after_step(self, number: int) -> None:
        name = signal.Signals(number).name
        print(
            f"{name}: stopping after this step, to save it; a second one ends at once",
            file=sys.stderr,
            flush=True,
        )
        self._asked = number

    def _handle(self, number: int) -> None:
        if self._holds and not self._asked:
            self._stop_after_step(number)
            return
        name = signal.Signals(number).name
        print(f"{name}: the run ends at once", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            self._last()
        multihost.leave(128 + number, f"a process was ended by {name}")

    def asked(self) -> int:
        """The signal by which any process was asked to stop, 0 where none was. All must call it."""
        return max(multihost.all_gather_object(self._asked))
