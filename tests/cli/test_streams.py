# SPDX-License-Identifier: Apache-2.0
"""What a command prints does not end it, wherever that goes."""

import io
import os
import subprocess
import sys

import pytest

from jaxvl.observe.metrics import Progress

PRINTS = """
import sys
from jaxvl.cli.streams import keep_going
keep_going()
for number in range(9):
    print("a line", number, flush=True)
    print("another", file=sys.stderr)
print("x" * 100_000, flush=True)
sys.exit(7)
"""


def printed(**streams):
    return subprocess.run([sys.executable, "-c", PRINTS], **streams)


def test_it_goes_on_where_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    done = printed(stdout=writer, stderr=subprocess.PIPE)
    assert done.returncode == 7 and done.stderr == b"another\n" * 9
    assert printed(stdout=writer, stderr=writer).returncode == 7
    os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_it_goes_on_where_the_volume_is_full_and_says_so_once():
    with open("/dev/full", "wb") as full:
        done = printed(stdout=full, stderr=subprocess.PIPE)
        assert printed(stdout=subprocess.DEVNULL, stderr=full).returncode == 7
    assert done.returncode == 7 and done.stderr.count(b"another\n") == 9
    assert done.stderr.count(b"standard output cannot be written (No space left on device)") == 1


def test_what_is_printed_is_what_it_was():
    done = printed(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout.startswith(b"a line 0\na line 1\n") and len(done.stdout) > 100_000
    closed = f"{sys.executable} -c '{PRINTS}' >&- 2>&-"
    assert subprocess.run(closed, shell=True).returncode == 7


def test_progress_in_a_script_goes_on_where_nobody_reads(monkeypatch):
    """rich would end the process."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with Progress(2) as progress:
        for step in (1, 2):
            progress.update(step, {})
        assert progress.console.quiet
