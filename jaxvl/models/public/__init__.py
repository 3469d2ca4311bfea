# SPDX-License-Identifier: Apache-2.0
"""config.json of the published models, so that a plan needs neither network nor weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxvl.errors import UserError

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.json"))  # "qwen2_vl_2b", ..


def config(name: str) -> dict[str, Any]:
    """config.json of a published model, by its hub id or by its name here.

    A base model and its Instruct have one shape: "Qwen/Qwen2-VL-2B-Instruct" is "qwen2_vl_2b".
    """
    plain = name.rpartition("/")[2].lower().removesuffix("-instruct")
    plain = plain.replace("-", "_").replace(".", "_")
    if plain not in NAMES:
        raise UserError(
            f"model.path = {name}: no directory with config.json, nor a published model whose "
            f"shape is known here ({', '.join(NAMES)})"
        )
    return json.loads((Path(__file__).parent / f"{plain}.json").read_text())
