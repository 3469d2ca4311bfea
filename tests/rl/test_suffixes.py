# SPDX-License-Identifier: Apache-2.0
"""Several prompts about the same pictures in a row: drawn as each of them alone."""

import jax
import numpy as np
import pytest

import jaxvl
from jaxvl.data import suffixes
from jaxvl.distributed.mesh import make_mesh, put_rows
from jaxvl.models import attention, qwen_vl
from jaxvl.models.inputs import Prompt
from jaxvl.rl import sampler
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from tests.rl.rows import V, prompt_arrays
from tests.rl.test_sampler import LOGPS, STOP

C = 8
# Rows of four: words before the picture, questions of any length, one that another begins with.
ENDS = [
    ["left?", "left? Or is it above, below?", "how many blue squares are there?", "x"],
    [" A", " B", " C or A?", " the words that follow differ"],
]
STARTS = [f"{V}Is it ", f"Look: {V}{V}Choose one:"]


@pytest.fixture(scope="module")
def encoded(vlm, pictures):
    """[[Encoded] * 4] * 2, by rows."""
    images = [pictures[:1], pictures[1:3]]
    return [
        vlm.encode([start + end for end in ends], [own] * 4)
        for start, ends, own in zip(STARTS, ENDS, images, strict=True)
    ]


def arrays_of(vlm, rows, ids, firsts=None):
    """Rows of prompts that begin alike, one behind the other in `ids`."""
    q = len(rows[0])
    return suffixes.collate(
        rows,
        np.reshape(ids, (-1, q)).tolist(),
        [[0] * q for _ in rows] if firsts is None else firsts,
        pad_id=vlm.processor.pad_id,
        prompt_bucket=48,
        patch_bucket=96,
        suffix_bucket=32,
    )


def drawn(vlm, arrays, how, seed=0):
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        return jax.device_get(sample(vlm.params, prompt, jax.random.key(seed)))


@pytest.fixture(scope="module")
def alone(vlm, pictures):
    """(each, settings of sampling) -> what is drawn where each prompt has a row of its own."""
    texts = [start + end for start, ends in zip(STARTS, ENDS, strict=True) for end in ends]
    images = [pictures[:1]] * 4 + [pictures[1:3]] * 4
    arrays = prompt_arrays(vlm, texts, images, buckets=(96, 96))

    def run(each=1, **settings):
        how = SamplingParams(each, C, pad_id=vlm.processor.pad_id, **{"stop_ids": STOP} | settings)
        return drawn(vlm, arrays, how)

    return run


def same(found, expected, atol=LOGPS):
    """A rollout of rows of several prompts against one of rows of one."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one.reshape(other.shape), other, atol=atol)


def test_what_they_share_is_cut_off(encoded):
    first, second = encoded
    for row in encoded:
        length, tokens = suffixes.shared_length(row), [list(one.tokens) for one in row]
        assert len({tuple(one[:length]) for one in tokens}) == 1
        assert max(map(len, tokens)) - length == suffixes.suffix_length(row)
        is_longest = len({tuple(one[: length + 1]) for one in tokens}) > 1
        assert is_longest and all((one.slots[length:] < 0).all() for one in row)
    assert suffixes.beginning(first[0]) == suffixes.beginning(first[3])
    assert suffixes.beginning(first[0]) != suffixes.beginning(second[0])
    # Of equal prompts each keeps a token, and so does one with which others begin.
    assert suffixes.shared_length(first[:1] * 2) == len(first[0].tokens) - 1
    assert suffixes.shared_length([first[0], first[0], first[1]]) == len(first[0].tokens) - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_is_drawn_as_if_it_were_alone(vlm, encoded, alone, temperature):
    how = {"temperature": temperature, "stop_ids": STOP}
    arrays = arrays_of(vlm, encoded, range(8))
    found = drawn(vlm, arrays, SamplingParams(4, C, pad_id=vlm.processor.pad_id, **how))
    expected = alone(**how)
    assert len({tuple(row) for row in expected.tokens.reshape(8, C).tolist()}) > 4
    same(found, expected)


def test_several_completions_of_each_in_few_slots_and_waves(vlm, encoded, alone, monkeypatch):
    """Eight rows of two prompts, three completions each, in six slots; prompts of five rows are
    held, and later ones are prefilled one at a time."""
    expected = alone(each=3)
    monkeypatch.setattr(sampler, "MIN_CACHE_LEN", 3)
    monkeypatch.setattr(sampler, "MIN_SLOTS", 2)
    monkeypatch.setattr(qwen_vl, "CPU_TOKENS", 1)
    monkeypatch.setattr(sampler, "places", lambda *_: 5)
    rows = [row[i : i + 2] for row in encoded for i in (0, 2)]
    arrays = arrays_of(vlm, rows * 2, [*range(8)] * 2)
    how = SamplingParams(6, C, STOP, vlm.processor.pad_id, slots=6)
    found = drawn(vlm, arrays, how)
    half = jax.tree.map(lambda x: x[:4], found)
    same(half, expected, atol=3e-5)  # products' sums
    same(jax.tree.map(lambda x: x[4:], found), expected, atol=3e-5)


def test_nobodys_prompt_ends_at_once_and_changes_nothing(vlm, encoded):
    how = SamplingParams(4, C, (301,), vlm.processor.pad_id, slots=2)
    whole = drawn(vlm, arrays_of(vlm, encoded, range(8)), how)
    firsts = [[0, -1, 0, 0], [-1, -1, 0, -1]]
    found = drawn(vlm, arrays_of(vlm, encoded, range(8), firsts), how)
    wanted = np.array(firsts) == 0
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one[wanted], other[wanted], atol=LOGPS)
    assert (found.mask[~wanted].sum(-1) == 1).all() and whole.mask.sum(-1).min() > 1


@pytest.mark.parametrize("settings", [{"int8_cache": True}, {"int8_weights": True}])
def test_in_eight_bits(vlm, encoded, alone, settings):
    """A number across the border of two whole ones moves a key by 1/127 of the largest."""
    arrays = arrays_of(vlm, encoded, range(8))
    how = SamplingParams(4, C, STOP, vlm.processor.pad_id, **settings)
    found, expected = drawn(vlm, arrays, how), alone(**settings)
    np.testing.assert_array_equal(found.tokens.reshape(8, 1, C), expected.tokens)
    np.testing.assert_allclose(found.logps.reshape(8, 1, C), expected.logps, atol=0.05)


def test_on_a_mesh(tiny_path, encoded, alone):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    spread = jaxvl.load(tiny_path, "float32", make_mesh(2, 2, 2))
    rows = [row[i : i + 2] for row in encoded for i in (0, 2)]
    how = SamplingParams(2, C, STOP, spread.processor.pad_id, slots=4)
    same(drawn(spread, arrays_of(spread, rows, range(8)), how), alone(), atol=3 * LOGPS)


@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_by_a_kernel(vlm, encoded, alone, monkeypatch, kernel):
    """Prefilled by the kernels that accelerators have, in rows longer than a block of splash."""
    monkeypatch.setattr(attention, "choose", lambda *_: kernel)
    arrays = arrays_of(vlm, encoded, range(8))
    how = SamplingParams(4, C, STOP, vlm.processor.pad_id)
    same(drawn(vlm, arrays, how), alone(), atol=3e-5)
