# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a step lie: prompts go to the devices once, and stay on the device they are on.

    n mini-batches, each of m micro-batches    l shards of a process's rows (B: of all processes)
    u rows of a shard in a micro-batch         R = n*m*l*u rows of a process

A process has its rows in the order (n m l u), micro-batch by micro-batch. A device is handed the
prompts of all its rows one after the other, (l n m u): so sampling reads them, and the
micro-batches of the reference and of updates are cut out of them without an exchange.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.config import GRPO
from jaxvl.distributed.fold import fold
from jaxvl.distributed.mesh import ROWS, data_shard, put_rows, row_shards
from jaxvl.models.decode import split_rows, take
from jaxvl.models.inputs import Prompt


@dataclasses.dataclass(frozen=True)
class Placement:
    """How the rows of a step are cut."""

    mini_batches: int
    micro_batches: int  # of a mini-batch
    shards: int  # l

    @classmethod
    def of(cls, grpo: GRPO, mesh: Mesh) -> Placement:
        """That of a run, in this process."""
        shards = row_shards(mesh) // data_shard(mesh).count
        return cls(grpo.mini_batches, grpo.micro_batches, shards)

    @property
    def pieces(self) -> Placement:
        """The same rows as one mini-batch."""
        return Placement(1, self.mini_batches * self.micro_batches, self.shards)

    @property
    def _cut(self) -> dict[str, int]:
        return {"n": self.mini_batches, "m": self.micro_batches, "l": self.shards}

    def put(self, prompt: Prompt, mesh: Mesh) -> Prompt:
        """Prompts of the host, every row's once, onto the devices. Only with several shards and
        micro-batches are they copied on the way."""

        def in_order(x: np.ndarray) -> np.ndarray:
            return rearrange(x, "(n m l u) ... -> (l n m u) ...", **self._cut)

        return put_rows(jax.tree.map(in_order, prompt), mesh)

    def on_host(self, tree: Any) -> Any:
        """Arrays of the host in the order of `put`, as what is sampled is, in the process's own."""

        def in_order(x: np.ndarray) -> np.ndarray:
            return rearrange(x, "(l n m u) ... -> (n m l u) ...", **self._cut)

        return jax.tree.map(in_order, tree)

    def order(self, live_R: np.ndarray, whole: bool) -> np.ndarray:
        """[R], the process's rows with those that are live before the others, within each
        mini-batch and shard; where micro-batches are kept `whole`, within each mini-batch."""
        places = rearrange(np.arange(len(live_R)), "(n m l u) -> n m l u", **self._cut)
        live = live_R[places]
        if whole:
            first = np.argsort(~live.any((2, 3)), axis=1, kind="stable")
            return np.take_along_axis(places, first[:, :, None, None], axis=1).ravel()
        live, places = (rearrange(x, "n m l u -> n l (m u)") for x in (live, places))
        first = np.argsort(~live, axis=2, kind="stable")
        return rearrange(
            np.take_along_axis(places, first, axis=2),
            "n l (m u) -> (n m l u)",
            m=self.micro_batches,
        )

    def cut_out(self, prompt: Prompt, order_R: np.ndarray, mesh: Mesh) -> list[Prompt]:
        """Of what `put` returns the mini-batches, micro-batches in front, in an `order` of rows."""
        own = len(order_R) // (self.mini_batches * self.micro_batches * self.shards)
        among = rearrange(order_R, "(n m l u) -> l n (m u)", **self._cut)
        micro_batch = among // (self.shards * own) % self.micro_batches
        places = micro_batch * own + among % own  # among the shard's rows of the mini-batch
        return _cut_out(prompt, put_rows(places.astype(np.int32), mesh), self.micro_batches)

    def compile(self, prompt: Prompt, mesh: Mesh) -> None:
        """Compile what cuts micro-batches out, for the shapes of `prompt`."""
        B = row_shards(mesh)
        rows = prompt.tokens.shape[0] // (B * self.mini_batches)
        sharding = NamedSharding(mesh, P(ROWS, None, None))
        order = jax.ShapeDtypeStruct((B, self.mini_batches, rows), np.int32, sharding=sharding)
        _cut_out.lower(prompt, order, self.micro_batches).compile()


@functools.partial(jax.jit, static_argnums=2)
def _cut_out(prompt: Prompt, order_Bnr: jax.Array, micro_batches: int) -> list[Prompt]:
    """See `Placement.cut_out`."""
    B, n, _ = order_Bnr.shape

    def cut(x: jax.Array, number: int) -> jax.Array:
        x_Br = _at(fold(x, "(B n r) ... -> B n r ...", B=B, n=n), number)
        x_Bmu = take(x_Br, _at(order_Bnr, number))
        x_Bmu = fold(x_Bmu, "B (m u) ... -> B m u ...", m=micro_batches)
        return fold(rearrange(x_Bmu, "B m u ... -> m B u ..."), "m B u ... -> m (B u) ...")

    return [jax.tree.map(lambda x, i=i: cut(x, i), prompt) for i in range(n)]


def _at(x_Bn: jax.Array, number: int) -> jax.Array:
    """[B, n, ..] -> [B, ..]"""
    return split_rows(x_Bn[:, number])
