# SPDX-License-Identifier: Apache-2.0
"""What surrounds the steps of a run, and is no part of one."""

import platform
from pathlib import Path

import numpy as np
import pytest

from jaxvl.train.steps import trim


def resident():
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's malloc")
def test_what_malloc_holds_and_nobody_uses_goes_back_to_the_system():
    """Of blocks too small for maps of their own three of four are freed: by themselves the holes
    between the others stay."""
    blocks = [np.ones(2**13) for _ in range(2000)]  # 125 MiB
    kept = blocks[::4]
    del blocks
    before = resident()
    trim()
    assert resident() < before - 60
    assert all(block[0] == 1 for block in kept)
