# SPDX-License-Identifier: Apache-2.0
"""Signs of life of the processes of a run, so that one which gives none is named.

A process that is killed breaks its connections, which all others see. One that is stopped, or whose
machine hangs, keeps them: the others would wait for it in a collective until jax ends them with the
stack of its own threads. Each process writes a number into jax's key-value store, and looks at the
others'. Clocks of two machines are never compared.
"""

from __future__ import annotations

import time
from typing import Any

SILENT_SECONDS = 45.0  # without a sign of life after which a process is taken for lost
EVERY_SECONDS = 5.0
_BEATS = "jaxvl/beats"


class Beats:
    """Of process `index` of `count`; `store` is jax's client of its key-value store."""

    def __init__(self, store: Any, index: int, count: int):
        self._store, self._index, self._number = store, index, 0
        self._seen: dict[str, str] = {}
        self._heard = dict.fromkeys(range(count), time.monotonic())
        self._answered = time.monotonic()  # when the store last did, which process 0 keeps

    def exchange(self) -> None:
        """Give a sign, and see the others'. It takes for ever where the store's process hangs."""
        self._number += 1
        own = f"{_BEATS}/{self._index}"
        self._store.key_value_set(own, str(self._number), allow_overwrite=True)
        for name, number in self._store.key_value_dir_get(_BEATS):
            if self._seen.get(name) != number:
                self._seen[name] = number
                self._heard[int(name.rpartition("/")[2])] = time.monotonic()
        self._answered = time.monotonic()

    def silent(self) -> int | None:
        """A process that has given no sign for long; None where all have."""
        now = time.monotonic()
        if now - self._answered > SILENT_SECONDS:
            return 0
        late = (
            i
            for i, at in self._heard.items()
            if i != self._index and self._answered - at > SILENT_SECONDS
        )
        return next(late, None)
