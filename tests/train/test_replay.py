# SPDX-License-Identifier: Apache-2.0
"""An update that is made again names the first array that is not finite."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxvl.config import Optim
from jaxvl.rl import learner
from jaxvl.rl.learning import Learning
from jaxvl.train.replay import again
from tests.rl.test_skipping import FROZEN, START, batch, logprobs, objective


@dataclasses.dataclass(frozen=True)
class Policy:
    def logprobs(self, params, batch):
        return logprobs(params, batch), None


def how(**optim):
    cfg = Optim(**{"lr": 1e-2, **optim})
    tx, lr = learner.optimizer(cfg, 10), learner.schedule(cfg, 10)
    return Learning(Policy(), objective, tx, lr, learner.any_token)


def asked(of):
    """With prompts, which have numbers: 10 to 15, a row each."""
    M, R = of.tokens.shape[:2]
    return dataclasses.replace(
        of,
        prompt=types.SimpleNamespace(prompt_id=np.arange(10, 10 + M * R).reshape(M, R)),
        old_logps=np.zeros(of.tokens.shape, np.float32),
    )


jax.tree_util.register_pytree_with_keys(
    types.SimpleNamespace,
    lambda x: (((jax.tree_util.GetAttrKey("prompt_id"), x.prompt_id),), None),
    lambda _, of: types.SimpleNamespace(prompt_id=of[0]),
)


def nothing(of, frozen, params):
    pass


def advantage(of, frozen, params):
    of.advantages[1, 1, 0] = np.nan


def advantages(of, frozen, params):
    of.advantages[0, 1] = -np.inf
    of.advantages[2, 0] = np.inf


def old(of, frozen, params):
    of.old_logps[2, 1, 0, 0] = np.nan


def masked(of, frozen, params):
    """What is masked does not count."""
    of.old_logps[~of.mask] = np.nan


def scale(of, frozen, params):
    frozen["scale"] = np.float32(np.inf)


def weight(of, frozen, params):
    params["text"]["w"][0, 0] = np.nan


def too_large(of, frozen, params):
    """Finite, and their product is not."""
    params["text"]["w"][:] = 3e38


def loss(of, frozen, params):
    of.advantages[:] = 3e38


def steep(of, frozen, params):
    of.advantages[:] *= np.float32(1e25)


@pytest.mark.parametrize(
    ("spoil", "optim", "expected"),
    [
        (nothing, {}, ""),
        (masked, {}, ""),
        (advantage, {}, "input advantages: of prompts 13"),
        (advantages, {}, "input advantages: of prompts 11, 14"),
        (old, {}, "input old_logps: of prompts 15"),
        (scale, {}, "parameter scale"),
        (weight, {}, "parameter text/w"),
        (too_large, {}, "log-probabilities of prompts 1"),
        (loss, {}, "loss "),
        (steep, {}, "gradient norm inf, its square is not float32"),
        (nothing, {"lr": 3e38, "weight_decay": 10.0}, "updated parameter text/w"),
    ],
)
def test_the_first_array_that_is_not_finite_is_named(spoil, optim, expected):
    of, frozen, params = asked(batch(0)), dict(FROZEN), jax.tree.map(np.array, START)
    spoil(of, frozen, params)
    found = how(**optim)
    state = learner.init_state(params, found.tx)
    before = [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]
    stats, norms, first = again(found, state, of, frozen)
    assert first.startswith(expected) and bool(first) == bool(expected)
    assert norms.keys() == {"text", "tower"}
    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(state)] == before
    if not expected:
        assert np.isfinite(stats["loss"]) and sum(x**2 for x in norms.values()) ** 0.5 == (
            pytest.approx(float(stats["grad_norm"]), rel=1e-6)
        )
