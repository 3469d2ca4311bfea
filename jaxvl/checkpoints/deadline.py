# SPDX-License-Identifier: Apache-2.0
"""A save that never ends, as on the server of a network's files that hangs: told, not waited for.

Nothing can take a thread back from such a write: a run that stops over one ends its process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Deadline:
    """Watches what is done inside of `held` and in the background afterwards.

    `late(waited_for)` is called, in a thread, where it has taken longer than `seconds`: once while
    somebody waits for it inside of `held`, and once while nobody does. `under_way` says whether
    there is work in the background.
    """

    def __init__(self, seconds: float, under_way: Callable[[], bool], late: Callable[[bool], None]):
        self.seconds, self._under_way, self._late = seconds, under_way, late
        self._inside, self._begun, self._lock = 0, 0.0, threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is done inside counts from now, or from when work began that is still under way."""
        with self._lock:
            self._inside += 1
            if not self._begun:
                self._begun = time.monotonic()
                threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._inside -= 1

    def renew(self) -> None:
        """What was under way has ended, and other work begins. Called inside of `held`."""
        self._begun = time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether what is under way has taken too long already."""
        return bool(self._begun) and time.monotonic() - self._begun > self.seconds

    def _watch(self) -> None:
        """Until there is nothing to watch."""
        told = None
        while True:
            time.sleep(min(1.0, self.seconds / 4))
            with self._lock:
                if not self._inside and not self._under_way():
                    self._begun = 0.0
                    return
            now = self._begun, self._inside > 0
            if self.passed and now != told:
                told = now
                self._late(self._inside > 0)
