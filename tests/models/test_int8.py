# SPDX-License-Identifier: Apache-2.0
"""Weights in eight bits: what they are off by, wherever their inputs lie."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import ROWS, make_mesh
from jaxvl.models.int8 import product, quantize


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 4)], ids=str)
def test_a_weight_is_off_by_half_a_step_at_most(sizes):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 6), np.float32) * np.float32(10.0) ** np.arange(-3, 3)
    w[:, 2] = 0  # a column without a largest weight
    x = rng.standard_normal((4, 3, 64), np.float32)
    devices = jax.devices()[: int(np.prod(sizes))]
    with jax.set_mesh(make_mesh(*sizes, devices=devices)):
        module = types.SimpleNamespace(w=nnx.Param(jax.device_put(w, P("tensor", None))))
        y = product("RSF,FD->RSD", jax.device_put(x, P(ROWS, None, "tensor")), module,
                    out_sharding=P(ROWS, None, None))  # fmt: skip
        np.testing.assert_allclose(y, x @ w, rtol=1e-4, atol=1e-5)
        quantize(module)
        q, scale = np.asarray(module.w[...]), np.asarray(module.w_scale[...])
        assert q.dtype == np.int8 and scale.shape == (6,)
        assert np.abs(q).max(0).tolist() == [127, 127, 0, 127, 127, 127]
        assert (np.abs(q * scale - w) <= 0.5001 * scale).all()
        x = jax.device_put(x.astype(jnp.bfloat16), P(ROWS, None, "tensor"))
        y = product("RSF,FD->RSD", x, module, out_sharding=P(ROWS, None, None))
    assert y.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float32) @ (q * scale)
    size = np.abs(expected).max((0, 1))
    assert (np.abs(np.asarray(y, np.float32) - expected).max((0, 1)) <= 0.01 * size).all()
