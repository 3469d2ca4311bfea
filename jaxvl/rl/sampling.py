# SPDX-License-Identifier: Apache-2.0
"""One token from logits, by a seed of its own, wherever the vocabulary's shards lie.

A draw is the argmax of logits plus Gumbel noise, which is a hash of the draw's seed and the token's
number in the vocabulary. So a shard needs nothing of the others: each finds its best token, and of
shards a few numbers are compared. Logits are never gathered, sorted whole or laid out anew.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard
from jaxtyping import Array, Float, Int, Int32, UInt32

from jaxvl.distributed.mesh import ROWS, axis_size, platform

NEVER = -jnp.inf
BLOCK = 128  # tokens: a row of a TPU's registers


@dataclasses.dataclass(frozen=True, eq=False)
class Banned:
    """Words that may not be written, as `jaxvl.data.banned.table` has them."""

    table: np.ndarray  # int16 [states, V], the state that a token leads to; below 0: forbidden

    def follow(self, state: jax.Array, token: jax.Array) -> jax.Array:
        """The state of completions of any shape after their next tokens."""
        spec = jax.typeof(token).sharding.spec
        found = jnp.asarray(self.table).at[state, token].get(out_sharding=spec)
        return found.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """What one compiled sampler is made for. temperature 0 is greedy."""

    completions: int  # g, completions a row
    max_new_tokens: int  # C
    stop_ids: tuple[int, ...]
    pad_id: int
    never_ids: tuple[int, ...] = ()  # tokens that may not be sampled
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    slots: int = 0  # completions decoded at a time, over all devices; 0: all
    banned: Banned | None = None  # words that may not be written
    int8_weights: bool = False  # of layers in eight bits, once prompts are prefilled
    int8_cache: bool = False  # keys and values too, of prompts and completions


def seeds(
    key: jax.Array, prompt_id_Rg: Int[Array, "R g"], completion_Rg: Int[Array, "R g"], tokens: int
) -> UInt32[Array, "R g C"]:
    """32 random bits for every token of every completion, uint32 [R, g, tokens].

    They come from a key that `key` (one for all, or one a row), the prompt, the completion and the
    token's number make up.
    """

    def of_completion(key, prompt_id, completion):
        return jax.random.fold_in(jax.random.fold_in(key, prompt_id), completion)

    of_row = jax.vmap(of_completion, (None, 0, 0))
    if key.ndim:
        key = reshard(key, P(jax.typeof(prompt_id_Rg).sharding.spec[0]))
    keys_Rg = jax.vmap(of_row, (0 if key.ndim else None, 0, 0))(key, prompt_id_Rg, completion_Rg)
    shape, spec = (*keys_Rg.shape, tokens), P(*jax.typeof(keys_Rg).sharding.spec, None)
    keys_RgC = jnp.broadcast_to(keys_Rg[..., None], shape, out_sharding=spec)
    number_RgC = jnp.broadcast_to(jnp.arange(tokens), shape, out_sharding=spec)

    def of_token(key, number):
        return jax.random.bits(jax.random.fold_in(key, number))

    return jax.vmap(jax.vmap(jax.vmap(of_token)))(keys_RgC, number_RgC)


@jax.named_scope("sampling")
def sample_token(
    logits_RgV: Float[Array, "R g V"],
    seed_Rg: UInt32[Array, "R g"],
    sampling: SamplingParams,
    banned_Rg: Int32[Array, "R g"] | None = None,
) -> tuple[Int32[Array, "R g"], Float[Array, "R g"]]:
    """A token of every completion by its seed, and its log-probability; `banned_Rg` is the state
    of `sampling.banned`, where there is one.

    The log-probability is the model's own at the sampling temperature (1 when greedy), over the
    whole vocabulary: top_k, top_p and the forbidden tokens restrict the choice, not the measure, so
    it equals what the learner computes.
    """
    vocab, rows = P(ROWS, None, "tensor"), P(ROWS, None)
    states = () if banned_Rg is None else (reshard(banned_Rg, rows),)
    return jax.shard_map(
        functools.partial(_sample_token, sampling=sampling),
        in_specs=(vocab, rows, *(rows for _ in states)),
        out_specs=(rows, rows),
        check_vma=False,  # all shards come to the same, which jax cannot know of a gather
    )(reshard(logits_RgV, vocab), reshard(seed_Rg, rows), *states)


def _sample_token(
    logits_RgV: jax.Array,
    seed_Rg: jax.Array,
    banned_Rg: jax.Array | None = None,
    *,
    sampling: SamplingParams,
) -> tuple[jax.Array, jax.Array]:
    """`sample_token` on a shard of the vocabulary."""
    V = logits_RgV.shape[-1]
    first = jax.lax.axis_index("tensor") * V
    scaled = logits_RgV / (sampling.temperature or 1.0)
    forbidden = np.isin(np.arange(V * axis_size("tensor")), np.array(sampling.never_ids, np.int32))
    score = jnp.where(jax.lax.dynamic_slice_in_dim(forbidden, first, V), NEVER, scaled)
    if sampling.banned is not None and banned_Rg is not None:
        table = jax.lax.dynamic_slice_in_dim(sampling.banned.table, first, V, axis=1)
        score = jnp.where(table[banned_Rg] < 0, NEVER, score)
    if sampling.temperature:
        score = restrict(score, sampling.top_k, sampling.top_p)
        score += gumbel(seed_Rg, (first + jnp.arange(V)).astype(jnp.uint32))
    best = _argmax(score)

    def at_best(x_RgV: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_RgV, best[..., None], axis=-1)[..., 0]

    top = scaled.max(-1)
    total = jnp.exp(scaled - top[..., None]).sum(-1)
    found = (top, total, at_best(score), at_best(scaled), first + best)
    # Of every shard, [shards, R, g]; equal scores are the first's, as in one vocabulary.
    top, total, score, logit, token = jax.lax.all_gather(found, "tensor")
    log_total = top.max(0) + jnp.log((total * jnp.exp(top - top.max(0))).sum(0))
    shard = jnp.argmax(score, axis=0)[None]
    logit, token = (jnp.take_along_axis(x, shard, axis=0)[0] for x in (logit, token))
    return token.astype(jnp.int32), logit - log_total


def _argmax(score_RgV: jax.Array) -> jax.Array:
    """The first of the best."""
    if platform() != "cpu":
        return jnp.argmax(score_RgV, axis=-1)
    # A CPU would work out what is compared, logarithms too, one number at a time.
    score_RgV = jax.lax.optimization_barrier(score_RgV)
    V, best_Rg1 = score_RgV.shape[-1], score_RgV.max(-1, keepdims=True)
    return jnp.where(score_RgV == best_Rg1, jnp.arange(V), V - 1).min(-1)


def gumbel(seed_Rg: UInt32[Array, "R g"], token_V: UInt32[Array, " V"]) -> Float[Array, "R g V"]:
    """Gumbel noise of every token for every seed, float32 [R, g, V].

    A counter-based hash: steps of the golden ratio from the seed, mixed by two multiplications and
    between them with the seed's own hash, since the steps of one seed may lead to another.
    """
    word = seed_Rg[..., None] + token_V * np.uint32(0x9E3779B9)
    word = (word ^ (word >> 16)) * np.uint32(0x7FEB352D)
    word = (word ^ (word >> 15) ^ _mixed(seed_Rg)[..., None]) * np.uint32(0x846CA68B)
    word ^= word >> 16
    # -log(Exp(1)), which has to be exact where the exponential is small: there unlikely tokens win.
    high, low = (x.astype(jnp.int32).astype(jnp.float32) for x in (word >> 8, word & 255))
    uniform = high * np.float32(2**-24) + (low + 0.5) * np.float32(2**-32)
    return -jnp.log(-jnp.log1p(-jnp.minimum(uniform, np.float32(1 - 2**-24))))


def _mixed(word: jax.Array) -> jax.Array:
    """A hash of 32 bits to 32 (the last steps of MurmurHash3)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def restrict(logits_RgV: Float[Array, "R g V"], top_k: int, top_p: float) -> Float[Array, "R g V"]:
    """-inf outside of the `top_k` best tokens and the smallest set that holds `top_p` of the mass.

    The set is what transformers keeps: a token stays while the mass before it is below `top_p`, so
    the best always stays. Ties at a border all stay. To be called on shards of the vocabulary.
    """
    if 0 < top_k < logits_RgV.shape[-1] * axis_size("tensor"):
        border = kth(logits_RgV, top_k)
        logits_RgV = jnp.where(logits_RgV < border[..., None], NEVER, logits_RgV)
    if top_p < 1.0:
        border = nucleus(logits_RgV, top_p)
        logits_RgV = jnp.where(logits_RgV < border[..., None], NEVER, logits_RgV)
    return logits_RgV


def kth(logits_RgV: Float[Array, "R g V"], k: int) -> Float[Array, "R g"]:
    """The `k`-th largest logit of each completion, exactly, over all shards.

    In two stages: k blocks with the largest maxima hold the k largest logits.
    """
    V = logits_RgV.shape[-1]
    if V > k * BLOCK:
        whole = jnp.pad(logits_RgV, ((0, 0), (0, 0), (0, -V % BLOCK)), constant_values=NEVER)
        # With the blocks in front the TPU's compiler moves nothing to cut the vocabulary.
        blocks = rearrange(whole, "R g (n block) -> n R g block", block=BLOCK)
        chosen = jax.lax.top_k(rearrange(blocks.max(-1), "n R g -> R g n"), k)[1]
        chosen = rearrange(chosen, "R g k -> k R g 1")
        chosen = jnp.take_along_axis(blocks, chosen, axis=0)
        logits_RgV = rearrange(chosen, "k R g block -> R g (k block)")
    best = jax.lax.top_k(logits_RgV, min(k, logits_RgV.shape[-1]))[0]
    if axis_size("tensor") > 1:
        best = jax.lax.all_gather(best, "tensor", axis=2, tiled=True)
        best = jax.lax.top_k(best, k)[0]
    return best[..., k - 1]


def nucleus(logits_RgV: Float[Array, "R g V"], top_p: float) -> Float[Array, "R g"]:
    """The least float32 number above which lies less than `top_p` of the mass: what is not below it
    is the smallest set that holds `top_p`, to the rounding of a sum.

    By bisection over all float32 numbers, taken as integers in their order: 32 sums, no sort.
    """
    top = jax.lax.pmax(logits_RgV.max(-1), "tensor")

    def mass_above(number: jax.Array) -> jax.Array:
        mass = jnp.exp(logits_RgV - top[..., None])
        mass = jnp.where(logits_RgV > number[..., None], mass, 0.0)
        return jax.lax.psum(mass.sum(-1), "tensor")

    def halve(_, range_Rg):
        low, high = range_Rg  # too much lies above the first, not above the second
        middle = (low & high) + ((low ^ high) >> 1)
        enough = mass_above(_at(middle)) < limit
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    lowest = jnp.full_like(top, NEVER)
    limit = top_p * mass_above(lowest)
    return _at(jax.lax.fori_loop(0, 32, halve, (_place(lowest), _place(top)))[1])


def _place(number: jax.Array) -> jax.Array:
    """The place of a float32 number in the order of all of them, int32."""
    bits = jax.lax.bitcast_convert_type(number, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _at(place: jax.Array) -> jax.Array:
    """The float32 number at a place."""
    return jax.lax.bitcast_convert_type(place ^ ((place >> 31) & 0x7FFFFFFF), jnp.float32)
