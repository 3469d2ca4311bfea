# SPDX-License-Identifier: Apache-2.0
"""Numbers that processes hold against each other, of one machine or of one shared file system."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxvl.errors import UserError


@contextlib.contextmanager
def held(path: Path, places: Iterable[int]) -> Iterator[None]:
    """Holds bytes of the file `path`, which stays empty: who wants one of them waits. A process
    that dies lets go of its own. Threads of one process are not kept apart."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "ab"))
            for place in sorted(set(places)):  # in one order, so that no two wait for each other
                fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error}); expected a file system with locks; write "
                "somewhere else"
            ) from error
        yield
