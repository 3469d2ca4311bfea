# SPDX-License-Identifier: Apache-2.0
"""python -m jaxvl, and jaxvl"""

from jaxvl.cli.main import main
from jaxvl.cli.runtime import one_arena, run_and_leave
from jaxvl.cli.streams import keep_going


def command() -> None:
    """The command line in a process of its own."""
    one_arena()
    keep_going()
    run_and_leave(main)


if __name__ == "__main__":
    command()
