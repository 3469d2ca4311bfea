# SPDX-License-Identifier: Apache-2.0
"""Updates of some parts of a model, for tests; adapters that are not at zero."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from jaxvl.config import GRPO, Grpo
from jaxvl.distributed.mesh import put_rows
from jaxvl.models import partition
from jaxvl.rl import learner
from tests.rl.rows import V, policy, random_batch

CFG = GRPO(num_iterations=2, beta=0.1, loss=Grpo(epsilon_high=0.3))  # that of `rows.grpo_step`
PROMPTS = [f"{V}left or right?", "How many blue squares are there?", f"{V}red?", "Above or below?"]


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def adapted(vlm, cfg):
    """`vlm` with random adapters, b too, which are the same on every mesh."""
    fresh = vlm.adapted(cfg)
    leaves = flat(fresh.params)
    for i, path in enumerate(sorted(path for path in leaves if "/lora/" in path)):
        x = leaves[path]
        values = 0.1 * np.random.default_rng(i).normal(size=x.shape)
        leaves[path] = jax.device_put(values.astype(x.dtype), x.sharding)
    return dataclasses.replace(fresh, params=traverse_util.unflatten_dict(leaves, sep="/"))


@dataclasses.dataclass
class Update:
    """An update by plain descent at rate 1, so that a change is a gradient, compiled.

    `batch` is a host batch, `micro` how many micro-batches it is cut in.
    """

    vlm: Any
    batch: Any
    trains: tuple[str, ...]
    dropout: Any = None
    micro: int = 1
    remat: str = "products"

    def __post_init__(self):
        trained, self.frozen = partition.partition(self.vlm.params, self.trains)
        tx = optax.sgd(1.0)
        batch = jax.tree.map(
            lambda x: x.reshape(self.micro, x.shape[0] // self.micro, *x.shape[1:]), self.batch
        )
        objective = learner.grpo_objective(policy(self.vlm, remat=self.remat), CFG)
        update = learner.make_update(objective, tx, lambda step: 1.0, self.dropout)
        with jax.set_mesh(self.vlm.mesh):
            self.state = learner.init_state(trained, tx)
            self.batch = put_rows(batch, self.vlm.mesh, lead=1)
            self.program = update.lower(self.state, self.batch, self.frozen).compile()

    def gradients(self, updates=1):
        """What `updates` updates take off what trains."""
        start = jax.device_get(self.state.params)
        with jax.set_mesh(self.vlm.mesh):
            for _ in range(updates):
                self.state, _ = self.program(self.state, self.batch, self.frozen)
        return jax.tree.map(np.subtract, start, jax.device_get(self.state.params))


def some_rows(vlm, pictures, prompts=4, g=4):
    """Rows of g of the four completions of up to four prompts, two of them with pictures."""
    images = [pictures[1:2], [], pictures[:1], []]
    return random_batch(vlm, images[:prompts], g, PROMPTS[:prompts])
