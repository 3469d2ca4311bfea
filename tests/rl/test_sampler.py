# SPDX-License-Identifier: Apache-2.0
"""The sampling loop: equal to the learner, blind to the batch, and over when all are done."""

import functools
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxvl.distributed.mesh import put_rows
from jaxvl.models import qwen_vl
from jaxvl.models.inputs import Prompt
from jaxvl.models.qwen_vl import QwenVL
from jaxvl.rl import sampler, slots
from jaxvl.rl.learner import make_logprobs
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from tests.rl.rows import V, policy, prompt_arrays, train_batch

PROMPTS = [f"{V}left or right?", "How many blue squares?", f"{V}red?", "Above or below?"]
G, C = 4, 10
LOGPS = 1e-5  # float32: the cache's sums against a whole row's


@pytest.fixture(scope="module")
def images(pictures):
    return [pictures[1:2], [], pictures[:1], []]


@pytest.fixture(scope="module")
def arrays(vlm, images):
    arrays = prompt_arrays(vlm, PROMPTS, images, group=G, g=G)
    assert len(set(arrays["length"])) > 2  # padded differently
    return arrays


@pytest.fixture(scope="module")
def run(vlm):
    """(prompt arrays, seed, settings of Decoding) -> rollout on the host."""

    @functools.cache
    def make(how):
        return Sampler(vlm.graphdef, how, "float32")

    def run(arrays, seed=0, **settings):
        settings = {"completions": G, "stop_ids": ()} | settings
        how = SamplingParams(max_new_tokens=C, pad_id=vlm.processor.pad_id, **settings)
        with jax.set_mesh(vlm.mesh):
            prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
            return jax.device_get(make(how)(vlm.params, prompt, jax.random.key(seed)))

    return run


def learner_logps(vlm, arrays, tokens, temperature=1.0):
    batch = jax.tree.map(lambda x: x[None], train_batch(arrays, tokens))
    with jax.set_mesh(vlm.mesh):
        logprobs = make_logprobs(policy(vlm, temperature=temperature or 1.0, chunk=16))
        return np.asarray(logprobs(vlm.params, put_rows(batch, vlm.mesh, lead=1)))[0]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_the_learners(vlm, arrays, run, temperature):
    rollout = run(arrays, temperature=temperature)
    assert rollout.tokens.shape == rollout.logps.shape == (4, G, C)
    assert rollout.mask.all() and not rollout.finished.any()
    expected = learner_logps(vlm, arrays, rollout.tokens, temperature)
    np.testing.assert_allclose(rollout.logps, expected, atol=LOGPS)


def test_greedy_is_the_argmax_of_a_full_forward(vlm, arrays, run):
    never = vlm.config.never_sampled
    rollout = run(arrays, temperature=0.0, never_ids=never)
    assert (rollout.tokens == rollout.tokens[:, :1]).all()  # a group has one greedy completion
    np.testing.assert_allclose(
        rollout.logps, learner_logps(vlm, arrays, rollout.tokens, 0.0), atol=LOGPS
    )

    @jax.jit
    def logits(params, prompt, tokens):
        model: QwenVL = nnx.merge(vlm.graphdef, params)
        hidden = model.completion_hidden(prompt, tokens)
        return model.text.logits(hidden.reshape(4, G * C, -1))

    with jax.set_mesh(vlm.mesh):
        inputs = put_rows((Prompt.from_arrays(arrays), rollout.tokens), vlm.mesh)
        full = np.array(logits(vlm.params, *inputs)).reshape(4, G, C, -1)
    full[..., never] = -np.inf
    np.testing.assert_array_equal(rollout.tokens, full.argmax(-1))


def test_the_key_decides(arrays, run):
    first, again, other = (run(arrays, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).any(axis=-1).all()
    completions = first.tokens.reshape(-1, C)
    assert len(np.unique(completions, axis=0)) == len(completions)


def test_the_order_of_rows_does_not_matter(arrays, run):
    order = np.array([2, 0, 3, 1])
    moved = {name: array[order] for name, array in arrays.items()}
    np.testing.assert_array_equal(run(moved).tokens, run(arrays).tokens[order])


def test_neighbours_do_not_matter(vlm, arrays, run):
    """Prompt 1 among others, and with their pictures gone."""
    others = prompt_arrays(vlm, ["Red.", PROMPTS[1], "Blue?", "One"], [[]] * 4, group=G, g=G)
    np.testing.assert_array_equal(run(others).tokens[1], run(arrays).tokens[1])
    assert (run(others).tokens[0] != run(arrays).tokens[0]).any()


@pytest.mark.parametrize("g", [2, 1])
def test_a_group_split_over_rows_is_the_same_group(vlm, images, arrays, run, g):
    split = run(prompt_arrays(vlm, PROMPTS, images, group=G, g=g), completions=g)
    assert split.tokens.shape == (4 * G // g, g, C)
    whole = run(arrays)
    np.testing.assert_array_equal(split.tokens.reshape(whole.tokens.shape), whole.tokens)
    np.testing.assert_allclose(split.logps.reshape(whole.logps.shape), whole.logps, atol=LOGPS)


def test_the_prompt_id_and_the_completion_index_decide_the_draw(arrays, run):
    one = run(arrays)
    other_id = run({**arrays, "prompt_id": arrays["prompt_id"] + 10})
    assert (one.tokens != other_id.tokens).any(axis=-1).all()
    later = run({**arrays, "completion": arrays["completion"] + 1})
    np.testing.assert_array_equal(later.tokens[:, :-1], one.tokens[:, 1:])


def test_stop_tokens_end_a_completion(vlm, arrays, run):
    """Several ids stop it; the first of them is kept, and nothing before it changes."""
    stop = tuple(range(0, 300, 6))
    free, stopped = run(arrays), run(arrays, stop_ids=stop)
    is_stop = np.isin(free.tokens, stop)
    first = np.where(is_stop.any(-1), is_stop.argmax(-1), C)
    assert 2 <= (first < C).sum() < first.size and len(set(first.flat)) > 2
    length = np.minimum(first + 1, C)
    mask = np.arange(C) < length[..., None]
    np.testing.assert_array_equal(stopped.mask, mask)
    np.testing.assert_array_equal(stopped.finished, first < C)
    np.testing.assert_array_equal(stopped.tokens, np.where(mask, free.tokens, vlm.processor.pad_id))
    np.testing.assert_allclose(stopped.logps, np.where(mask, free.logps, 0.0), atol=LOGPS)
    assert len({int(t) for t in stopped.tokens[is_stop & mask]}) > 1


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_forbidden_tokens_are_never_sampled(arrays, run, temperature):
    """Half of the vocabulary; hot sampling would take one every other time."""
    never = tuple(range(0, 320, 2))
    tokens = run(arrays, temperature=temperature, never_ids=never).tokens
    assert not np.isin(tokens, never).any()
    assert np.isin(run(arrays, temperature=1.0).tokens, never).any()


STOP = tuple(range(0, 300, 6))


@pytest.fixture
def short_ladders(monkeypatch):
    """Sizes that ten tokens of sixteen completions go through."""
    monkeypatch.setattr(sampler, "MIN_CACHE_LEN", 3)
    monkeypatch.setattr(sampler, "MIN_SLOTS", 2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("slots", [5, 0], ids=["five slots", "a slot each"])
def test_slots_and_columns_do_not_matter(vlm, arrays, run, short_ladders, slots, temperature):
    """Completions that wait, slots that come and go, caches that grow and are written round."""
    settings = {"completions": G, "stop_ids": STOP, "temperature": temperature}
    how = SamplingParams(max_new_tokens=C, pad_id=vlm.processor.pad_id, slots=slots, **settings)
    seen = []
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        for state in sample.states(vlm.params, prompt, jax.random.key(0)):
            seen.append((state.slots, state.cache_len, int(state.step)))
        got = jax.device_get(sample.read(prompt, state))
    slot_counts, cache_len, clocks = zip(*seen, strict=True)
    assert list(slot_counts) == sorted(slot_counts, reverse=True) and len(set(slot_counts)) > 1
    assert list(cache_len) == sorted(cache_len) and cache_len[-1] == C
    assert (clocks[-1] > C) == (slots == 5)  # the ring has been written round
    free = run(arrays, temperature=temperature)  # in one piece, without an end
    is_stop = np.isin(free.tokens, STOP)
    mask = np.cumsum(is_stop, -1) - is_stop == 0
    assert len(set(mask.sum(-1).flat)) > (3 if temperature else 1)
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_array_equal(got.tokens, np.where(mask, free.tokens, vlm.processor.pad_id))
    np.testing.assert_array_equal(got.finished, is_stop.any(-1))
    np.testing.assert_allclose(got.logps, np.where(mask, free.logps, 0.0), atol=LOGPS)


@pytest.mark.parametrize("wave", [1, 2])
def test_waves_of_prompts_do_not_matter(vlm, images, arrays, run, short_ladders, monkeypatch, wave):
    """Eight rows, three of which are held at a time; five do not divide by waves of two. Where the
    last three are nobody's, nobody makes their completions."""
    monkeypatch.setattr(slots.DecodeInputs, "wave", wave)
    how = SamplingParams(2, C, STOP, vlm.processor.pad_id, slots=2)
    rows = prompt_arrays(vlm, PROMPTS, images, group=G, g=2)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(rows), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        inputs, *_ = jax.eval_shape(sample.start, vlm.params, prompt, jax.random.key(0))
        assert inputs.places == 3 and inputs.decode_model.prompts[0].k.shape[:2] == (1, 3)
        ready = []
        for state in sample.states(vlm.params, prompt, jax.random.key(0)):
            ready.append(int(state.ready))
            held = jax.device_get((state.live, state.request, state.next_request))
        got = jax.device_get(sample.read(prompt, state))
    assert ready[0] == 6 and ready[-1] == 16
    assert len(set(ready)) == 1 + -(-5 // wave)
    assert not held[0].any() and held[2].tolist() == [16]
    whole = run(arrays, stop_ids=STOP)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one.reshape(other.shape), other, atol=3e-5)  # products' sums
    rows["completion"][5:] = -1
    with jax.set_mesh(vlm.mesh):
        prompt, before = put_rows(Prompt.from_arrays(rows), vlm.mesh), sample._cache_size()
        for state in sample.states(vlm.params, prompt, jax.random.key(0)):
            held = jax.device_get((state.live, state.next_request))
        few = jax.device_get(sample.read(prompt, state))
    assert sample._cache_size() == before and held[1].tolist() == [10] and not held[0].any()
    for one, other in zip(jax.tree.leaves(few), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(one[:5], other[:5], atol=3e-5)
    assert few.mask[5:].sum(-1).max() <= 1 < got.mask[5:].sum(-1).max()


@pytest.mark.parametrize("tokens", [1, 130])
def test_rows_prefilled_at_a_time_do_not_matter(vlm, arrays, run, monkeypatch, tokens):
    """One of the four, or two, whose tokens and patches are 56 each."""
    expected = run(arrays, 0)
    monkeypatch.setattr(qwen_vl, "CPU_TOKENS", tokens)
    how = SamplingParams(completions=G, max_new_tokens=C, stop_ids=(), pad_id=vlm.processor.pad_id)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        start = sample.start.lower(vlm.params, prompt, jax.random.key(0)).as_text()
        rollout = jax.device_get(sample(vlm.params, prompt, jax.random.key(0)))
    rows = 1 if tokens == 1 else 2
    assert f"tensor<{rows}x24xi32>" in start  # the shares are cut out
    np.testing.assert_array_equal(rollout.tokens, expected.tokens)
    np.testing.assert_allclose(rollout.logps, expected.logps, atol=3e-5)  # other products' sums


def test_the_cache_is_written_in_place(vlm, arrays):
    """Compiled, the loop has no copy of an array of a cache's size."""
    how = SamplingParams(completions=G, max_new_tokens=C, stop_ids=STOP, pad_id=0, slots=8)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        past, state, _ = jax.eval_shape(sample.start, vlm.params, prompt, jax.random.key(0))
        text = sample.decode_steps.lower(past, state, np.int32(0), np.int32(0)).compile().as_text()
    cache = state.cache[0].k
    assert f"f32[{','.join(map(str, cache.shape))}]" in text
    copies = re.findall(r"= f32\[([\d,]+)\]\S* copy\(", text)
    sizes = [np.prod([int(d) for d in dims.split(",")]) for dims in copies]
    assert copies and cache.size not in sizes, copies


def test_what_is_compiled_ahead_is_not_compiled_again(vlm, arrays, short_ladders, caplog):
    how = SamplingParams(completions=G, max_new_tokens=C, stop_ids=STOP, pad_id=1, slots=6)
    sample = Sampler(vlm.graphdef, how, "float32")
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        key = jax.random.fold_in(jax.random.key(0), 1)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), prompt
        )
        sample.compile(vlm.params, shapes, key)
        with jax.log_compiles():
            for state in sample.states(vlm.params, prompt, key):
                jax.block_until_ready(sample.read(prompt, state))
    messages = [record.getMessage() for record in caplog.records]
    assert not [m for m in messages if "Finished XLA compilation of jit(" in m and "jit(<" not in m]
    assert state.slots < 6 and state.cache_len == C


def count_steps(monkeypatch, vlm, arrays, how):
    """The rollout, and how many tokens of a row were chosen when it ran."""
    calls = []
    sample_token = sampler.sample_token

    def counted(logits, seed, how):
        jax.debug.callback(calls.append, seed.sum())
        return sample_token(logits, seed, how)

    monkeypatch.setattr(sampler, "sample_token", counted)
    monkeypatch.setattr(slots, "sample_token", counted)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        run = Sampler(vlm.graphdef, how, "float32")
        rollout = jax.device_get(run(vlm.params, prompt, jax.random.key(0)))
        jax.effects_barrier()
    return rollout, len(calls)


def test_the_loop_ends_with_the_longest_completion(vlm, arrays, monkeypatch):
    how = SamplingParams(
        completions=G, max_new_tokens=500, stop_ids=tuple(range(0, 320, 2)), pad_id=0
    )
    rollout, steps = count_steps(monkeypatch, vlm, arrays, how)
    assert rollout.finished.all()
    longest = rollout.mask.sum(-1).max()
    assert 1 < longest < 100
    assert steps == longest
    assert (rollout.tokens[..., longest:] == 0).all() and (rollout.logps[..., longest:] == 0).all()


def test_one_token_at_most(vlm, arrays, monkeypatch):
    """C = 1: the prefill's token and no decode step."""
    how = SamplingParams(completions=G, max_new_tokens=1, stop_ids=(), pad_id=0)
    rollout, steps = count_steps(monkeypatch, vlm, arrays, how)
    assert steps == 1 and rollout.mask.shape == (4, G, 1)
    assert rollout.mask.all() and not rollout.finished.any()


def test_products_in_bfloat16_keep_the_float32_measure(vlm, arrays):
    """Parameters are cast inside: log-probabilities come out float32 and near the float32 ones."""
    how = SamplingParams(completions=G, max_new_tokens=C, stop_ids=(), pad_id=0)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        run = Sampler(vlm.graphdef, how, "bfloat16")
        rollout = jax.device_get(run(vlm.params, prompt, jax.random.key(0)))
    assert rollout.logps.dtype == np.float32
    expected = learner_logps(vlm, arrays, rollout.tokens)
    # 8 bits a product over two layers, logits near 5: some tenths at worst, hundredths in the mean
    assert np.abs(rollout.logps - expected).mean() < 0.1


@pytest.mark.parametrize("slots", [2, 0], ids=["waves", "all prompts held"])
def test_parameters_are_let_go_once_all_prompts_are_prefilled(vlm, images, slots):
    """Where the sampler alone holds them, their memory is free while it decodes."""
    how = SamplingParams(2, C, STOP, vlm.processor.pad_id, slots=slots)
    rows = prompt_arrays(vlm, PROMPTS, images, group=G, g=2)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(rows), vlm.mesh)
        params = jax.tree.map(jnp.copy, vlm.params)
        held = weakref.ref(params["text"]["layers"]["mlp"]["up"]["w"])
        states = Sampler(vlm.graphdef, how, "float32").states(params, prompt, jax.random.key(0))
        del params
        next(states)
    assert (held() is None) == (slots == 0)


def test_weights_in_eight_bits(vlm, arrays, run):
    """Prefill is the learner's; after it a weight is off by half of 1/127 of its column's largest
    at most, a product of 64 numbers by half a percent, and log-probabilities near -4.6 by
    hundredths, behind fourteen products one after the other."""
    rollout = run(arrays, int8_weights=True)
    gap = np.abs(rollout.logps - learner_logps(vlm, arrays, rollout.tokens))
    assert gap[..., 0].max() < LOGPS
    assert 1e-3 < gap.mean() < 0.06 and gap.max() < 0.5
    how = SamplingParams(G, C, (), 0, int8_weights=True)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        start = Sampler(vlm.graphdef, how, "float32").start
        inputs, *_ = jax.eval_shape(start, vlm.params, prompt, jax.random.key(0))
    model = inputs.decode_model
    wide = [x.dtype for x in jax.tree.leaves(model.layers) if x.ndim > 1 and x.shape[0] >= 64]
    assert wide == [np.dtype(np.int8)] * 4 * vlm.config.text.layers
    assert model.embed.w.dtype == model.norm.scale.dtype == np.float32


def test_keys_and_values_in_eight_bits(vlm, arrays, run):
    """The first token is the prefill's and the learner's. After it a key or value is off by half of
    1/127 of its head's largest at most, a quarter of a percent in the mean, where a weight in eight
    bits is too; but of a layer's products two alone read them."""
    rollout = run(arrays, int8_cache=True)
    gap = np.abs(rollout.logps - learner_logps(vlm, arrays, rollout.tokens))
    assert gap[..., 0].max() < LOGPS
    assert 1e-3 < gap.mean() < 0.03 and gap.max() < 0.2


def test_slots_and_waves_do_not_matter_in_eight_bits(vlm, images, arrays, run, short_ladders):
    """Caches in eight bits grow, move to fewer slots and are filled by waves as others do. The last
    bit of a sum may take a number across the border between two whole ones, a step of 1/127."""
    eight = {"int8_weights": True, "int8_cache": True}
    how = SamplingParams(2, C, STOP, vlm.processor.pad_id, slots=4, **eight)
    rows = prompt_arrays(vlm, PROMPTS, images, group=G, g=2)
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(rows), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        inputs, *_ = jax.eval_shape(sample.start, vlm.params, prompt, jax.random.key(0))
        seen = []
        for state in sample.states(vlm.params, prompt, jax.random.key(0)):
            seen.append((state.slots, state.cache_len))
        got = jax.device_get(sample.read(prompt, state))
    for cache in (inputs.decode_model.prompts[0], state.cache[0]):
        assert {cache.k.dtype, cache.v.dtype} == {np.dtype(np.int8)}
    assert inputs.place is not None and all(
        len(set(sizes)) > 1 for sizes in zip(*seen, strict=True)
    )
    whole = run(arrays, stop_ids=STOP, **eight)
    np.testing.assert_array_equal(got.tokens.reshape(whole.tokens.shape), whole.tokens)
    np.testing.assert_allclose(got.logps.reshape(whole.logps.shape), whole.logps, atol=0.05)
