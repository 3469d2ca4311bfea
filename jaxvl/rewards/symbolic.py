# SPDX-License-Identifier: Apache-2.0
"""math-verify in a process of its own: whether two texts hold the same mathematics.

A completion is untrusted: `$9^{9^{9}}$` costs sympy minutes and gigabytes in one uninterruptible
call, and math-verify's own time limit works in a main thread only. So one child process does the
comparing under hard limits of processor time and memory; where it dies it is started anew and the
answer is "not equal". This file is also the program of that child.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading

SECONDS = 3.0  # of processor time a comparison, so that a busy machine does not change a reward
MEMORY = 2 << 30  # bytes of address space

_lock = threading.Lock()
_child: subprocess.Popen | None = None


def equal(prediction: str, gold: str) -> bool:
    """math-verify's `verify(parse(prediction), parse(gold))`, False where a limit is reached."""
    global _child
    request = json.dumps([prediction, gold, SECONDS]).encode() + b"\n"
    with _lock:
        if _child is None or _child.poll() is not None:
            _stop()
            # -P keeps the modules beside this file from shadowing others.
            command = [sys.executable, "-P", __file__]
            _child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            if _child.stdout.read(1) != b"r":
                raise RuntimeError("math-verify does not start; try `import math_verify`")
        try:
            _child.stdin.write(request)
            _child.stdin.flush()
        except BrokenPipeError:
            pass
        reply = _child.stdout.read(1)
        if not reply:
            _stop()
        return reply == b"1"


@atexit.register
def _stop() -> None:
    global _child
    if _child is not None:
        _child.kill()
        _child.communicate()
        _child = None


def _serve() -> None:
    """Answer requests, a JSON line each, with one byte; the kernel ends what takes too long."""
    import logging
    import os
    import resource
    import signal

    from math_verify import parse, verify

    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no reply
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    os.write(out, b"r")
    for line in sys.stdin.buffer:
        prediction, gold, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            gold_parsed = parse(gold, parsing_timeout=None)
            same = bool(gold_parsed) and verify(
                parse(prediction, parsing_timeout=None), gold_parsed, timeout_seconds=None
            )
        except (Exception, MemoryError, RecursionError):
            same = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(out, b"1" if same else b"0")


if __name__ == "__main__":
    _serve()
