# SPDX-License-Identifier: Apache-2.0
"""What a run's directory says of its checkpoints beside them: whose they are, and the newest.

A folder of checkpoints that is empty may be a disk that is not mounted, and one in it may be
another run's.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from jaxvl.checkpoints.folders import folders
from jaxvl.checkpoints.manifest import ITEM
from jaxvl.data.files import replace

FILE = "saved.json"


def newest(run_dir: Path) -> int:
    """The step of the newest checkpoint that was written here, 0 where none was."""
    step = _read(run_dir / FILE).get("step")
    return step if isinstance(step, int) else 0


def run_of(run_dir: Path) -> str:
    """The run's word for itself, which its checkpoints hold; empty where it has none yet."""
    word = _read(run_dir / FILE).get("run")
    if not isinstance(word, str):  # of a run whose checkpoints alone were copied here
        known = [_read(one / ITEM / "metadata").get("run") for one in folders(_at(run_dir))]
        word = next((one for one in known if isinstance(one, str)), "")
    return word


def write(run_dir: Path, step: int) -> None:
    """`step` is the newest."""
    said = {"run": run_of(run_dir) or secrets.token_hex(8), "step": step}
    replace(run_dir / FILE, json.dumps(said).encode() + b"\n")


def _at(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
