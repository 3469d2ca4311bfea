# SPDX-License-Identifier: Apache-2.0
"""The program of a worker process: answers comparisons, a JSON line each, with one byte.

Completions are untrusted: the parent (`pool`) ends what takes too long or too much memory.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

OUTCOMES = {b"1": "match", b"0": "mismatch", b"g": "bad_gold", b"u": "refused", b"c": "crash"}
_BYTES = {outcome: byte for byte, outcome in OUTCOMES.items()}


def serve(memory: int) -> None:
    """Answer requests until the input ends, in at most `memory` bytes of address space."""
    # A run that is asked to stop finishes its step, and needs this; at its end the input ends too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    logging.disable(logging.CRITICAL)
    from jaxvl.rewards import symbolic

    symbolic.expressions("y=|x|", "y=|-x|", 0.0)  # what is built once is no comparison's cost
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.write(out, b"r")
    for line in sys.stdin.buffer:
        try:
            request = json.loads(line)
            compare: Callable[..., str] = symbolic.texts
            if "tolerance" in request:
                compare = symbolic.expressions
            elif "strings" in request:
                compare = symbolic.listed
            outcome = compare(**request)
        except MemoryError:
            outcome = "crash"
        except (Exception, RecursionError):
            outcome = "refused"
        os.write(out, _BYTES[outcome])
        if outcome == "crash":
            return  # after a failed allocation nothing in the libraries can be trusted


if __name__ == "__main__":
    serve(int(sys.argv[1]))
