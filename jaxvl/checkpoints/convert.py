# SPDX-License-Identifier: Apache-2.0
"""A model in any form that jaxvl reads, written as one that transformers loads."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from safetensors import safe_open

from jaxvl import arguments
from jaxvl.checkpoints.start import load, locate, of_run
from jaxvl.data import test_sets
from jaxvl.errors import UserError
from jaxvl.models.layers import cast
from jaxvl.vlm import VLM


def convert(source: str | Path, out: str | Path, dtype: str | None = None) -> Path:
    """Write the model at `source` into the new directory `out`, as `VLM.save` does.

    `source` is a Hugging Face checkpoint directory, a hub id, the directory of a run, whether or
    not it has ended, or of one of its steps (RUN/checkpoints/60). `dtype` is float32 or
    bfloat16; None keeps bfloat16 where all weights have it and is float32 elsewhere, which loses
    nothing. `out` is there when it is complete, not before.
    """
    out = arguments.new_directory(out)
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"dtype {dtype!r}: expected 'float32' or 'bfloat16'")
    place = locate(source)
    vlm: VLM
    if place.run:
        vlm = of_run(place.run, step=place.step)
        if dtype:
            vlm = dataclasses.replace(vlm, params=cast(vlm.params, dtype))
    else:
        vlm = load(place.files, dtype or stored_dtype(place.files))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    vlm.save(part)
    test_sets.mark(part, test_sets.marks(place.folder))
    if out.is_dir():
        out.rmdir()
    return part.rename(out)


def stored_dtype(path: Path) -> str:
    """The narrowest of bfloat16 and float32 that holds every weight of a checkpoint directory."""
    found = set()
    for file in path.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    return "bfloat16" if found == {"BF16"} else "float32"
