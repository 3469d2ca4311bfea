# SPDX-License-Identifier: Apache-2.0
"""What a command prints never ends it: not where its reader is gone (`| head`, a `tee` that Ctrl-C
has ended too), nor where it goes to a volume that is full."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any


class _Patient(io.FileIO):
    """A descriptor that takes everything, and loses what cannot be written."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.failed is None or self.failed.errno != errno.EPIPE:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                if self.failed is None:
                    self._tell(error)
                self.failed = error
        return len(data)

    def _tell(self, error: OSError) -> None:
        """On the other stream; of a reader that is gone nobody needs to hear."""
        if error.errno == errno.EPIPE or self.fileno() == 2:
            return
        text = f"warning: standard output cannot be written ({error.strerror}): what is printed "
        text += "there meanwhile is lost, and the command goes on\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def keep_going() -> None:
    """Standard output and error of this process, from here on, are such streams."""
    sys.stdout, sys.stderr = _patient(sys.stdout), _patient(sys.stderr)


def _patient(stream: Any) -> Any:
    try:
        raw = _Patient(stream.fileno(), "wb", closefd=False)
    except (AttributeError, OSError, ValueError):  # there is none, or it is no descriptor
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
