# SPDX-License-Identifier: Apache-2.0
"""A run that is asked to stop: it finishes the step it is in, saves, and says so by its exit code.

SIGTERM is what a cloud that takes machines back sends, and a scheduler whose time is up.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from jaxvl.distributed import multihost


class Stopped(SystemExit):
    """The run was asked to stop and did; its newest checkpoint is whole. Exit code 143, which a
    shell gives a process that SIGTERM ended: schedulers see that the run is not finished."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


class PreemptionHandler:
    """As a context manager, hears SIGTERM of this process; a second one ends it at once."""

    def __init__(self):
        self._asked, self._before = False, None

    def __enter__(self) -> PreemptionHandler:
        if threading.current_thread() is threading.main_thread():  # no other may hear signals
            self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: Any) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("SIGTERM: stopping after this step", file=sys.stderr, flush=True)

    def asked(self) -> bool:
        """Whether any process was asked. All must call it."""
        return any(multihost.all_gather_object(self._asked))
