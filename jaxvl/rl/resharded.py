# SPDX-License-Identifier: Apache-2.0
"""Sampling on a mesh of its own: weights are moved there once a rollout, completions come back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.distributed.decode_mesh import ParamReshard, decode_mesh
from jaxvl.distributed.mesh import ROWS
from jaxvl.models.arch import Arch
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import check_mesh, to_compute_dtype
from jaxvl.rl.batch import Rollout
from jaxvl.rl.sampler import Sampler, compiled
from jaxvl.rl.sampling import SamplingParams


class ReshardedSampler:
    """Called and compiled as a `Sampler` of the training mesh, whose rollouts it returns.

    Rows stay in their order and no draw depends on where it is made, so that tokens are the same
    and log-probabilities too, but for the order of sums. The moved parameters are held until no
    prompt waits to be prefilled, beside the weights that decoding reads.
    """

    def __init__(self, sampler: Sampler, params: ParamReshard, training: Mesh):
        self.sampler, self.params, self.decoding = sampler, params, params.decoding
        self.to_decoding = _mover(self.decoding, (P(ROWS), P()))
        self.to_training = _mover(training, P(ROWS))

    def __call__(
        self,
        params: dict[str, Any],
        prompt: Prompt,
        key: jax.Array,
        meanwhile: Callable[[], None] | None = None,
    ) -> Rollout:
        moved = self.params(params)
        # As numbers: jax takes keys of a jitted function's first call for others than later ones.
        prompt, bits = self.to_decoding((prompt, jax.random.key_data(key)))
        with jax.set_mesh(self.decoding):
            key = jax.random.wrap_key_data(bits, impl=jax.random.key_impl(key))
            states = self.sampler.states(moved, prompt, key)
            del moved  # whose memory is free as soon as the sampler needs it no more
            rollout = self.sampler.finish(states, prompt, meanwhile)
        return self.to_training(rollout)

    def compile(self, params: dict[str, Any], prompt: Prompt, key: jax.Array) -> None:
        """See `Sampler.compile`; what moves parameters and rows is compiled too."""
        moved = self.params.compile(params)
        prompt, bits = compiled(self.to_decoding, (prompt, jax.random.key_data(key)))
        with jax.set_mesh(self.decoding):
            moved_key: Any = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=bits.sharding)
            rollout = self.sampler.compile(moved, prompt, moved_key)
        compiled(self.to_training, rollout)

    def _cache_size(self) -> int:
        """How many programs there are."""
        parts: tuple[Any, ...] = (
            self.sampler,
            self.params.move,
            self.to_decoding,
            self.to_training,
        )
        return sum(part._cache_size() for part in parts)


def make_sampler(
    arch: Arch,
    graphdef: nnx.GraphDef,
    sampling: SamplingParams,
    dtype: str,
    training: Mesh,
    tensor: int | None,
) -> Sampler | ReshardedSampler:
    """A sampler for parameters on the training mesh, which decodes with so many devices along
    tensor (none: as many as training has). UserError where mesh or model cannot be cut so."""
    sampler, decoding = Sampler(graphdef, sampling, dtype), decode_mesh(training, tensor)
    if decoding is training:
        return sampler
    check_mesh(arch, decoding, "sampling.tensor")
    prepare = functools.partial(to_compute_dtype, dtype=dtype, arch=arch.text)
    return ReshardedSampler(sampler, ParamReshard(training, decoding, prepare), training)


def _mover(mesh: Mesh, specs: Any) -> jax.stages.Wrapped:
    """A jitted function that moves arrays from any mesh of the same devices in the same order to
    `mesh`, split there as `specs` say, one of which may be that of a whole tree."""
    shardings = jax.tree.map(functools.partial(NamedSharding, mesh), specs)
    return jax.jit(lambda tree: tree, out_shardings=shardings)
