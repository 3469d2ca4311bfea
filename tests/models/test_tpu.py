# SPDX-License-Identifier: Apache-2.0
"""What a TPU would run, made ready on a machine without one (with libtpu, of the extra `tpu`)."""

import importlib.util
import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.mesh import ROWS, make_mesh, platform
from jaxvl.models import attention
from jaxvl.models.inputs import Vision
from jaxvl.models.io import hf
from jaxvl.models.layers import remat_layer
from jaxvl.models.vision import VisionTower
from jaxvl.plan.chips import Topology
from jaxvl.plan.compile import tpu_devices
from tests.distributed.test_mesh import abstract_update, small
from tests.tiny import public_config

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install jaxvl[tpu]"
)
T, G, C = 300, 3, 100
S, PADDED = T + G * C, 640


@pytest.fixture(scope="module")
def mesh():
    """Sixteen v5e chips that are not here."""
    return make_mesh(2, 4, 2, devices=tpu_devices(Topology.parse("v5e:4x4")))


def kernels(text: str) -> Counter:
    """Calls of Pallas kernels in StableHLO, by the pass they are of."""
    return Counter(re.findall(r'kernel_name = "splash_mha_(fwd|dq|dkv)', text))


def assert_no_array_of_pairs(text: str) -> None:
    """No array has two axes that are as long as a row."""
    shapes = re.findall(r"tensor<((?:\d+x)+)", text)
    assert any(str(S) in shape.split("x") for shape in shapes)
    for shape in shapes:
        assert sum(size in (str(S), str(PADDED)) for size in shape.split("x")) < 2, shape


def test_an_update_has_the_kernels_and_no_array_of_pairs_of_tokens(mesh):
    """Tower and decoder, forward, again for the backward pass, and backward."""
    update, state, batch = abstract_update(small("qwen2_5_vl_3b"), mesh, T=T, patches=S, g=G, C=C)
    with jax.set_mesh(mesh):
        assert platform() == "tpu"
        text = update.trace(state, batch).lower().as_text()
    assert kernels(text) == {"fwd": 4, "dq": 2, "dkv": 2}
    assert_no_array_of_pairs(text)


@pytest.mark.parametrize(("remat", "forward"), [("block", 2), ("products", 1)])
def test_attention_compiles_and_is_kept_with_the_products(mesh, remat, forward):
    def arrays(heads, *shape, dtype=jnp.bfloat16):
        spec = P(ROWS, None, "tensor", None) if heads else P(ROWS, None)
        shape = (8, *shape, heads, 128) if heads else (8, *shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    def loss(q, k, v, mask):
        def layer(x, _):
            return attention.tree_attention(x, k, v, mask, G), None

        return jax.lax.scan(remat_layer(layer, remat), q, None, length=2)[0].sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    # Mosaic refuses products of bfloat16 at the "highest" precision that the other tests ask for.
    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        lowered = gradient.lower(
            arrays(4, S), arrays(2, S), arrays(2, S), arrays(0, T, dtype=jnp.bool_)
        )
    assert kernels(lowered.as_text())["fwd"] == forward
    assert "tpu_custom_call" in lowered.compile().as_text()


def test_no_copy_of_whole_rows_in_the_tower():
    """On a v6e, whose compiler moves the axes of heads with 80 numbers to and fro where a product
    writes whole rows, or where a rotation takes heads apart."""
    config = public_config("qwen2_vl_2b")
    config |= {"vision_config": config["vision_config"] | {"depth": 2}}
    arch = hf.arch_from_config(config).vision
    assert (arch.dim, arch.heads) == (1280, 16)
    mesh, R, Q = make_mesh(devices=tpu_devices(Topology.parse("v6e:1x1"))), 8, 1024
    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        tower = nnx.eval_shape(lambda: VisionTower(arch, rngs=nnx.Rngs(0)))
        tower = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tower)

        def of(*shape, dtype=jnp.int32):
            sharding = NamedSharding(mesh, P(ROWS, *(None,) * len(shape)))
            return jax.ShapeDtypeStruct((R, *shape), dtype, sharding=sharding)

        patches = of(Q, arch.patch_values, dtype=jnp.bfloat16)
        images = Vision(patches, of(Q, 2), of(Q), of(Q))
        text = jax.jit(lambda tower, images: tower(images)).lower(tower, images).compile().as_text()
    copies = re.findall(r"= \w+\[([\d,]+)\]\S* copy\(", text)
    large = [dims for dims in copies if math.prod(map(int, dims.split(","))) >= R * Q * arch.dim]
    assert "tpu_custom_call" in text and large == []
