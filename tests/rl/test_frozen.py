# SPDX-License-Identifier: Apache-2.0
"""What is frozen costs nothing: no gradient, no moments; what trains learns as if it were not."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvl.config import Optim
from jaxvl.models import partition
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from tests.rl.adapted import Update, flat, some_rows
from tests.rl.rows import assert_trees_close

ALL = ("tower", "merger", "text")


@pytest.fixture(scope="module")
def batch(vlm, pictures):
    """Three rows of 48 tokens and 32 patches: no activation has the shape of a weight."""
    return some_rows(vlm, pictures, 3)


@pytest.fixture(scope="module")
def whole(vlm, batch):
    """An update in which everything trains, and its gradients."""
    update = Update(vlm, batch, ALL)
    return update, update.gradients()


@pytest.fixture(scope="module", params=[("merger", "text"), ("tower",)], ids=str)
def some(request, vlm, batch):
    """One in which some parts are frozen."""
    update = Update(vlm, batch, request.param)
    return update, update.gradients()


def matrices(params):
    """Shapes of weights, of one layer, in either order."""
    return {tuple(sorted(x.shape[-2:])) for path, x in flat(params).items() if path.endswith("/w")}


def products(update):
    """Shapes of the plain matrix products of a compiled program, in either order."""
    found = re.findall(r"\w+\[(\d+),(\d+)\]\S* dot\(", update.program.as_text())
    return {tuple(sorted(map(int, shape))) for shape in found}


def test_every_parameter_has_its_part(vlm):
    counts = {part: len(flat(partition.partition(vlm.params, [part])[0])) for part in ALL}
    assert counts == {"tower": 17, "merger": 6, "text": 14}
    assert sum(counts.values()) == len(flat(vlm.params))
    trained, frozen = partition.partition(vlm.params, ["merger"])
    assert all(path.startswith("vision/merger/") for path in flat(trained))
    again = partition.combine(trained, frozen)
    assert jax.tree.structure(again) == jax.tree.structure(vlm.params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (again, vlm.params)), strict=True))


def test_no_buffer_of_the_compiled_update_holds_more_logits_than_a_chunk(vlm, whole):
    """Three rows of 24 completion tokens in chunks of 5: what is as wide as the vocabulary has 15
    rows, or is the table of tokens or its gradient."""
    update, _ = whole
    vocab, dim = vlm.config.text.vocab, vlm.config.text.dim
    shapes = {
        tuple(map(int, shape.split(",")))
        for shape in re.findall(r"\w+\[([\d,]+)\]", update.program.as_text())
    }
    wide = {math.prod(shape) // vocab for shape in shapes if vocab in shape}
    assert 3 * 5 in wide
    assert max(wide - {dim}) == 3 * 5 < 3 * 24 and dim not in (15, 72)


def test_no_gradient_is_computed(whole, some):
    """A weight's gradient is a product of the weight's shape: there are those of what trains, and
    none of what is frozen."""
    for update, _ in (whole, some):
        assert matrices(update.state.params) <= products(update)
        only_frozen = matrices(update.frozen) - matrices(update.state.params)
        assert not only_frozen & products(update)
    assert matrices(some[0].frozen) - matrices(some[0].state.params)


def test_work_falls(whole, some):
    """By one product for every frozen weight at least: 2 * inputs * outputs * tokens or patches.

    XLA counts the body of a loop once, so a stack of layers counts as one layer.
    """
    flops = [update.program.cost_analysis()["flops"] for update, _ in (whole, some)]
    tokens = {"tower": 3 * 32, "merger": 3 * 8, "text": 3 * 48}
    saved = sum(
        2 * np.prod(x.shape[-2:]) * tokens[partition.part(path)]
        for path, x in flat(some[0].frozen).items()
        if path.endswith("/w") and path != "text/embed/w"
    )
    assert flops[1] < flops[0] - saved


def test_what_trains_learns_the_same(whole, some):
    # 1e-5 of a leaf's norm: a change is a rounded difference of parameters 100 times as large
    assert_trees_close(some[1], partition.partition(whole[1], some[0].trains)[0], 1e-5)


def test_frozen_arrays_are_the_loaded_ones(vlm, some):
    """They are handed in, neither donated nor returned: what was loaded is what is there."""
    loaded = flat(vlm.params)
    for path, x in flat(some[0].frozen).items():
        assert x is loaded[path] and not x.is_deleted()


def test_no_optimizer_state(vlm, some):
    """Two moments for every leaf that trains, and two counters."""
    trained, _ = partition.partition(vlm.params, some[0].trains)
    with jax.set_mesh(vlm.mesh):
        state = learner.init_state(trained, learner.optimizer(Optim(), 10))
    assert jax.tree.structure(state.params) == jax.tree.structure(trained)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(moments) == 2 * len(jax.tree.leaves(trained))
    size = sum(x.nbytes for x in jax.tree.leaves(trained))
    assert sum(x.nbytes for x in moments) == 2 * size < 2 * 0.9 * total(vlm.params)
    counters = [x for x in jax.tree.leaves(state.opt_state) if not x.ndim]
    assert len(counters) == 2 and all(x.dtype == jnp.int32 for x in counters)


def test_every_micro_batch_of_every_update_drops_others():
    """The key that an objective gets, by a draw from it: the largest and the smallest of two."""

    def draw(params, piece, whole, key, beta):
        u = jax.random.uniform(key)
        return params["x"], {"max": u, "minus_min_max": 1 - u}

    tx = learner.optimizer(Optim(), 1)
    mask = jnp.ones((2, 1, 1, 1), bool)
    batch = TrainBatch(None, mask, mask, None, None, None)

    def draws(seed):
        update = learner.make_update(draw, tx, lambda step: 0.0, jax.random.key(seed))
        state, found = learner.init_state({"x": jnp.float32(0)}, tx), []
        for _ in range(2):
            state, stats = update(state, batch)
            found += [float(stats["max"]), 1 - float(stats["minus_min_max"])]
        return found

    assert len({*draws(0), *draws(1)}) == 8
    assert draws(0) == draws(0)


def total(params):
    return sum(np.dtype(x.dtype).itemsize * x.size for x in jax.tree.leaves(params))
