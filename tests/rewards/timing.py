"""How long the work of a call takes, whatever else the machine does."""

import time
import timeit


def timed(function):
    """Processor seconds of this process for one call, and what it gave.

    Garbage is not collected meanwhile: of all that a process of tests holds that takes seconds.
    """
    found = []
    seconds = timeit.timeit(lambda: found.append(function()), timer=time.process_time, number=1)
    return seconds, found[0]
