# SPDX-License-Identifier: Apache-2.0
"""A model in any form that jaxvl reads, written as one that transformers loads."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh
from safetensors import safe_open

from jaxvl.checkpoints.start import start_model
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import Model
from jaxvl.config.fields import from_json
from jaxvl.data import test_sets
from jaxvl.data.strict_json import read_json
from jaxvl.distributed.mesh import make_mesh, param_shardings
from jaxvl.errors import UserError
from jaxvl.models import lora, partition
from jaxvl.models.layers import cast
from jaxvl.vlm import VLM, checkpoint_dir, load


def convert(source: str | Path, out: str | Path, dtype: str | None = None) -> Path:
    """Write the model at `source` into the new directory `out`, as `VLM.save` does.

    `source` is a Hugging Face checkpoint directory, a hub id, or the directory of a run, of which
    the newest checkpoint is taken, whether or not the run has ended. `dtype` is float32 or
    bfloat16; None keeps bfloat16 where all weights have it and is float32 elsewhere, which loses
    nothing. `out` is there when it is complete, not before.
    """
    out, folder = Path(out), Path(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty directory; choose another")
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"dtype {dtype!r}: expected 'float32' or 'bfloat16'")
    if (folder / "checkpoints").is_dir():
        vlm = of_run(folder)
        if dtype:
            vlm = dataclasses.replace(vlm, params=cast(vlm.params, dtype))
    else:
        folder = checkpoint_dir(source)
        vlm = load(folder, dtype or stored_dtype(folder))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    vlm.save(part)
    test_sets.mark(part, test_sets.marks(folder))
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


def of_run(run_dir: Path, mesh: Mesh | None = None) -> VLM:
    """The model that a run started from, with what it has trained since, adapters folded in.

    `mesh` defaults to the first device alone.
    """
    model = _model(run_dir)
    base = start_model(model, make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh)
    vlm = base.adapted(model.lora) if model.lora else base
    known = traverse_util.flatten_dict(jax.tree.map(lambda x: x.shape, vlm.params), sep="/")

    def shardings(shapes: dict[str, Any]) -> dict[str, Any]:
        found = traverse_util.flatten_dict(shapes, sep="/")
        wrong = [path for path, x in found.items() if known.get(path) != x.shape]
        if wrong:
            raise UserError(
                f"{run_dir}: {wrong[0]} is not a parameter of {model.path}, or is of another shape "
                "there; is that still the model the run was started with?"
            )
        return param_shardings(shapes, vlm.mesh)

    params = partition.combine(vlm.params, Checkpoints.newest_params(run_dir, shardings))
    if vlm.lora:
        params = lora.merge(params, vlm.lora)
    return dataclasses.replace(vlm, params=params, lora=None)


def _model(run_dir: Path) -> Model:
    """What the run's config.json says of its model."""
    fields = read_json(run_dir / "config.json").get("model")
    if not fields:
        raise UserError(f"{run_dir} has checkpoints but no config.json that names its model")

    return from_json(Model, fields)
