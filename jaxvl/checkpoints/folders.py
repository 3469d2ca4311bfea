# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints a run has, by the names of their folders: nothing in them is read."""

from __future__ import annotations

from pathlib import Path

from jaxvl.checkpoints.manifest import FILES

COMMITTED = "commit_success.txt"  # written last: where it is, a checkpoint is whole


def folders(path: Path) -> list[Path]:
    """The folders of steps, newest first, whole or not."""
    every = path.iterdir() if path.is_dir() else ()
    found = [one for one in every if one.name.isdecimal() and one.is_dir()]
    return sorted(found, key=lambda one: -int(one.name))


def steps_at(path: Path) -> tuple[list[int], list[int]]:
    """Steps whose folders are whole, as far as their names tell, and others; newest first."""
    every = folders(path)
    whole = [one for one in every if (one / COMMITTED).is_file()]
    return [int(one.name) for one in whole], [int(p.name) for p in every if p not in whole]


def complete(folder: Path) -> bool:
    """Whether all of a checkpoint was written, though it may not be whole any more."""
    return (folder / COMMITTED).is_file() or (folder / FILES).is_file()
