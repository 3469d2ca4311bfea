# SPDX-License-Identifier: Apache-2.0
"""The shapes that programs are compiled for ahead are those that a run hands them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxvl.config import Data
from jaxvl.data.templates import chat_question
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models.inputs import Prompt
from jaxvl.rl import shapes
from jaxvl.train.prompts import micro
from tests.axes import misfits
from tests.rl.rows import PROMPTS, prompt_arrays, train_batch


def data(**sizes):
    return Data(source=None, template=chat_question, **sizes)


def test_pairs_of_buckets_that_no_row_needs_are_left_out():
    found = shapes.buckets(data(prompt_buckets=(64, 256, 512), patch_buckets=(256, 1024, 2048)))
    # More than 1024 patches are more than 256 tokens, more than 256 more than 64.
    assert found == [(64, 256), (256, 256), (256, 1024), (512, 256), (512, 1024), (512, 2048)]
    assert shapes.buckets(data(prompt_buckets=(64,), patch_buckets=(4096,))) == [(64, 4096)]


def test_shapes_are_those_of_a_run(vlm, pictures):
    mesh = make_mesh(1, 2, 2, devices=jax.devices()[:4])
    arrays = prompt_arrays(vlm, PROMPTS, [pictures[:1], []], group=4, g=2)
    rows, T = arrays["tokens"].shape
    sizes = {"prompt_buckets": (T,), "patch_buckets": (arrays["patches"].shape[1],)}
    (prompt,) = shapes.prompts(data(**sizes), rows, arrays["patches"].shape[2], mesh)
    batch = shapes.batch(prompt, 2, 5, pieces=2, count=2, mesh=mesh)
    real = train_batch(arrays, np.zeros((rows, 2, 5), np.int32))
    for made, lead, run in ((prompt, 0, Prompt.from_arrays(arrays)), (batch, 1, micro(real, 2))):
        run = put_rows(run, mesh, lead)
        assert jax.tree.structure(made) == jax.tree.structure(run)
        for x, y in zip(jax.tree.leaves(made), jax.tree.leaves(run), strict=True):
            assert (x.shape, x.dtype, x.sharding) == (y.shape, y.dtype, y.sharding)


def test_a_batch_has_the_axes_that_its_fields_say(vlm, pictures):
    arrays = prompt_arrays(vlm, PROMPTS, [pictures[1:2], []], group=2, g=2)
    batch = jax.tree.map(jnp.asarray, train_batch(arrays, np.zeros((2, 2, 5), np.int32)))
    assert misfits(batch) == []
    short = dataclasses.replace(batch, old_logps=batch.old_logps[..., 1:])
    assert misfits(short) == ["old_logps"]
    assert misfits(dataclasses.replace(batch, mask=batch.tokens)) == ["mask"]
    vision = dataclasses.replace(batch.prompt.vision, windows=batch.prompt.slots)
    prompt = dataclasses.replace(batch.prompt, vision=vision)
    assert misfits(dataclasses.replace(batch, prompt=prompt)) == ["prompt.vision.windows"]
