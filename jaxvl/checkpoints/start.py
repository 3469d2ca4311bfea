# SPDX-License-Identifier: Apache-2.0
"""A model from wherever one is: a checkpoint directory, the hub, a run, one of its steps; and the
model that a run starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import Mesh

from jaxvl import arguments
from jaxvl.checkpoints.folders import steps_at
from jaxvl.config import Model
from jaxvl.config.fields import from_json
from jaxvl.data.strict_json import read_json
from jaxvl.distributed.mesh import make_mesh, param_shardings
from jaxvl.errors import UserError
from jaxvl.models import finite, lora, partition
from jaxvl.models.io.find import EXPORT, checkpoint_dir, is_run
from jaxvl.models.qwen_vl import to_compute_dtype
from jaxvl.vlm import VLM, check_settings
from jaxvl.vlm import load as load_files

FINISHED = "finished.json"  # of a run that has come to its end: its export is the newest


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model is."""

    files: Path  # a checkpoint directory; of a run's step the one that the run started from
    run: Path | None = None  # the run whose weights are meant, where they are no such directory
    step: int = 0

    @property
    def folder(self) -> Path:
        """What bears the mark of test data."""
        return self.run or self.files


def locate(path_or_hub_id: str | Path) -> Place:
    """A checkpoint directory or a hub id as they are; of the directory of a run its newest whole
    checkpoint, or its export where there is none; RUN/checkpoints/60 is that step."""
    folder = Path(arguments.model(path_or_hub_id)).expanduser()
    if folder.name == "checkpoints" and is_run(folder.parent):
        folder = folder.parent
    if folder.name.isdecimal() and folder.parent.name == "checkpoints":
        return _at_step(folder.parent.parent, int(folder.name))
    if not is_run(folder):
        return Place(checkpoint_dir(path_or_hub_id))
    whole, exported = _steps(folder), (folder / EXPORT / "config.json").is_file()
    if not whole and not exported:
        raise UserError(
            f"{(folder / 'checkpoints').absolute()} holds no checkpoint yet; a run writes one "
            "every run.save_every"
        )
    if not whole:
        return Place(folder / EXPORT)
    try:
        return _at_step(folder, whole[0])
    except UserError:  # what the run started from is not here
        if not (exported and (folder / FINISHED).is_file()):
            raise
        return Place(folder / EXPORT)


def _steps(run: Path) -> list[int]:
    """The steps of a run's whole checkpoints, newest first."""
    return steps_at(run / "checkpoints")[0]


def _at_step(run: Path, step: int) -> Place:
    if step not in _steps(run):
        there = ", ".join(map(str, _steps(run))) or "none"
        raise UserError(
            f"{run / 'checkpoints' / str(step)} is no whole checkpoint; the run has {there}"
        )
    return Place(_base(_model(run)), run, step)


def _base(model: Model) -> Path:
    """Where the files are of what a run started from."""
    folder = Path(model.path).expanduser()
    return checkpoint_dir(folder) if is_run(folder) else locate(model.path).files


def load(
    path_or_hub_id: str | Path,
    dtype: str = "bfloat16",
    mesh: Mesh | None = None,
    *,
    float32_head: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VLM:
    """A model from a Hugging Face checkpoint directory, a hub id, a run or one of its steps.

    Of the directory of a run it is the newest checkpoint, or the export where there is none;
    RUN/checkpoints/60 is that step. `dtype` is that of the parameters and of products ("float32" or
    "bfloat16"), but for the head where `float32_head` is set; `mesh` (from
    `jaxvl.distributed.mesh.make_mesh`) defaults to the first device alone; `min_pixels` and
    `max_pixels` override the checkpoint's image sizes.
    """
    pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    check_settings(dtype, mesh, float32_head, **pixels)
    place = locate(path_or_hub_id)
    if place.run is None:
        return load_files(place.files, dtype, mesh, float32_head=float32_head, **pixels)
    vlm = of_run(place.run, mesh, place.step)
    text = vlm.config.text
    text = dataclasses.replace(text, float32_head=float32_head or text.float32_head)
    with jax.set_mesh(vlm.mesh):
        params = to_compute_dtype(vlm.params, dtype, text)
    return dataclasses.replace(
        vlm,
        config=dataclasses.replace(vlm.config, text=text),
        params=params,
        dtype=dtype,
        processor=vlm.processor.with_pixels(**pixels),
    )


def start_model(model: Model, mesh: Mesh) -> VLM:
    """The model that a run starts from, without its adapters.

    Of the directory of another run it is the export, which does not change while that goes on.
    """
    folder = Path(model.path).expanduser()
    path = checkpoint_dir(folder) if is_run(folder) else model.path
    wide = "float32" if model.train else model.dtype
    pixels = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    vlm = load(path, wide, mesh, float32_head=model.float32_head, **pixels)
    with jax.set_mesh(mesh):
        cure = "train from another checkpoint"
        finite.check(vlm.params, f"model.path {model.path}", cure)
    frozen = partition.partition(vlm.params, model.train)[1]
    frozen = to_compute_dtype(frozen, model.dtype, vlm.config.text)
    return dataclasses.replace(
        vlm,
        params=partition.combine(vlm.params, frozen),
        processor=vlm.processor.with_dtype(model.dtype),
        dtype=model.dtype,
    )


def of_run(run_dir: Path, mesh: Mesh | None = None, step: int | None = None) -> VLM:
    """The model that a run started from, with what it has trained until `step` (None: its newest
    checkpoint), adapters folded in.

    `mesh` defaults to the first device alone.
    """
    from jaxvl.checkpoints.store import Checkpoints  # loads orbax, which other models do without

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

    params = partition.combine(vlm.params, Checkpoints.newest_params(run_dir, shardings, step))
    if vlm.lora:
        params = lora.merge(params, vlm.lora)
    return dataclasses.replace(vlm, params=params, lora=None)


def _model(run_dir: Path) -> Model:
    """What the run's config.json says of its model."""
    fields = read_json(run_dir / "config.json").get("model")
    if not fields:
        raise UserError(
            f"{run_dir} has checkpoints but no config.json that names its model; bring it back "
            "from a copy, or from the newest line of config_history.jsonl"
        )

    return from_json(Model, fields)
