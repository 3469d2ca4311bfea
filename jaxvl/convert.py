# SPDX-License-Identifier: Apache-2.0
"""A model in any form that jaxvl reads, written as one that transformers loads."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from flax import traverse_util
from safetensors import safe_open

from jaxvl.checkpoint import Checkpoints
from jaxvl.config import LoRA
from jaxvl.data.image import read_json
from jaxvl.errors import UserError
from jaxvl.models.layers import cast
from jaxvl.sharding import param_shardings
from jaxvl.vlm import VLM, checkpoint_dir, load


def convert(source: str | Path, out: str | Path, dtype: str | None = None) -> Path:
    """Write the model at `source` into the new directory `out`, as `VLM.save` does.

    `source` is a Hugging Face checkpoint directory, a hub id, or the directory of a run, of which
    the newest checkpoint is taken, whether or not the run has ended; adapters are merged. `dtype`
    is float32 or bfloat16; None keeps bfloat16 where all weights have it and is float32 elsewhere,
    which loses nothing. `out` is there when it is complete, not before.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty directory; choose another")
    run_dir = Path(source)
    if (run_dir / "checkpoints").is_dir():
        vlm = _of_run(run_dir).merged()
        vlm = dataclasses.replace(vlm, params=cast(vlm.params, dtype or "float32"))
    else:
        path = checkpoint_dir(source)
        vlm = load(path, dtype or stored_dtype(path))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    vlm.save(part)
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


def _of_run(run_dir: Path) -> VLM:
    """The model that a run started from, with the parameters that it has trained since."""
    model = read_json(run_dir / "config.json").get("model")
    if not model:
        raise UserError(f"{run_dir} has checkpoints but no config.json that names its model")
    limits = {name: model[name] for name in ("min_pixels", "max_pixels")}
    base = load(model["path"], "float32", **limits)
    if adapters := model.get("lora"):
        lists = {name: tuple(x) for name, x in adapters.items() if isinstance(x, list)}
        base = base.adapted(LoRA(**{**adapters, **lists}))
    known = traverse_util.flatten_dict(base.params)

    def shardings(shapes):
        unknown = sorted(set(traverse_util.flatten_dict(shapes)) - set(known))
        if unknown:
            raise UserError(
                f"{run_dir}: {'/'.join(unknown[0])} is no parameter of {model['path']}; "
                "is that still the model the run was started with?"
            )
        return param_shardings(shapes, base.mesh)

    trained = traverse_util.flatten_dict(Checkpoints.newest_params(run_dir, shardings))
    params = traverse_util.unflatten_dict({**known, **trained})
    return dataclasses.replace(base, params=params)
