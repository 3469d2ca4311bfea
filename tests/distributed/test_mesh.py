# SPDX-License-Identifier: Apache-2.0
"""Eight devices are one device; every parameter, gradient and moment lies where the rules say."""

import dataclasses
import functools
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvl.config import GRPO, Grpo, LoRA, Optim
from jaxvl.distributed.mesh import (
    AXES,
    PARAM_RULES,
    ROWS,
    check_divisible,
    data_shard,
    device_layout,
    make_mesh,
    param_shardings,
    param_spec,
    path_name,
    put_rows,
)
from jaxvl.errors import UserError
from jaxvl.models import lora, qwen_vl
from jaxvl.models.inputs import Prompt, Vision
from jaxvl.models.io import hf
from jaxvl.rl import learner
from jaxvl.rl.batch import TrainBatch
from jaxvl.rl.sampler import Sampler
from jaxvl.rl.sampling import SamplingParams
from jaxvl.vlm import load
from tests.rl.rows import V, assert_trees_close, policy, prompt_arrays, random_batch
from tests.tiny import PUBLIC, make_checkpoint, public_config

MESHES = [(8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2), (1, 2, 4)]  # the tiny model has 2 kv heads
# Both families; of the second what differs is in the tower, which has no use for other meshes.
SPREAD = [("qwen2_vl", mesh) for mesh in MESHES] + [("qwen2_5_vl", mesh) for mesh in MESHES[3:]]
PUBLIC_MESHES = [(1, 8, 1), (1, 4, 2), (2, 2, 2)]
PROMPTS = [f"{V}left or right?", "How many blue squares are there?", f"{V}red?", "Above or below?"]
STOP = tuple(range(0, 300, 6))  # so many that lengths differ
LOGPS = 1e-5  # float32 sums in another order, log-probabilities near -6
GRADIENTS = 1e-5  # of a leaf's norm
WEIGHTS = 5e-6  # of weights near 1, which are rounded to 6e-8 and moved by up to lr * error / eps
# `eps` of the size of gradients: else AdamW makes full steps of gradients that are all rounding.
OPTIM = Optim(lr=1e-2, eps=1e-2, clip_norm=1e9)
HOW = GRPO(num_iterations=2, beta=0.1, loss=Grpo(epsilon_high=0.3))


def small(name):
    """A public model in the same proportions, for what has to be compiled."""
    config = public_config(name)
    sizes = {"embed_dim": 64, "hidden_size": 192}
    if config["model_type"] == "qwen2_5_vl":
        sizes = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 192}
        sizes |= {"fullatt_block_indexes": [1]}
    return config | {
        "hidden_size": 192,
        "num_attention_heads": 12,
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "vocab_size": 512,
        "vision_config": config["vision_config"] | {"depth": 2, "num_heads": 4} | sizes,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }


@pytest.fixture(scope="module")
def images(pictures):
    return [pictures[1:2], [], pictures[:1], []]


def run_update(vlm, images):
    """One update by GRPO with a batch of eight rows, and another: the state after the first as it
    lies on the devices, its stats, and how many programs both have compiled."""
    tx = learner.optimizer(OPTIM, 3)
    objective = learner.grpo_objective(policy(vlm), HOW)
    update = learner.make_update(objective, tx, lambda step: OPTIM.lr)
    batch = jax.tree.map(lambda x: x[None], random_batch(vlm, images, 2, PROMPTS))
    with jax.set_mesh(vlm.mesh):
        batch = put_rows(batch, vlm.mesh, lead=1)
        state, stats = update(learner.init_state(vlm.params, tx), batch)
        after = jax.tree.map(jnp.copy, state)  # the second update takes the first one's memory
        update(state, batch)
    return after, jax.device_get(stats), update._cache_size()


def run_sampler(vlm, images, temperature, slots=0):
    arrays = prompt_arrays(vlm, PROMPTS, images, group=4, g=2)
    how = SamplingParams(
        2, 8, STOP, 0, vlm.config.never_sampled, temperature=temperature, slots=slots
    )
    with jax.set_mesh(vlm.mesh):
        prompt = put_rows(Prompt.from_arrays(arrays), vlm.mesh)
        sample = Sampler(vlm.graphdef, how, "float32")
        return jax.device_get(sample(vlm.params, prompt, jax.random.key(3)))


@pytest.fixture(scope="module")
def paths(tiny_path, tmp_path_factory):
    windowed = tmp_path_factory.mktemp("tiny") / "windowed"
    make_checkpoint(windowed, family="qwen2_5_vl", depth=4, weights="old")
    return {"qwen2_vl": tiny_path, "qwen2_5_vl": windowed}


@pytest.fixture(scope="module")
def one_device(paths, images):
    """family -> what `run_update` and `run_sampler` (at both temperatures) give on one device."""

    @functools.cache
    def run(family):
        vlm = load(paths[family], "float32")
        updated = jax.device_get(run_update(vlm, images))
        return updated, {t: run_sampler(vlm, images, t) for t in (0.0, 1.0)}

    return run


@pytest.fixture(scope="module", params=SPREAD, ids=str)
def spread(request, paths):
    family, mesh = request.param
    return load(paths[family], "float32", make_mesh(*mesh))


def test_loss_gradients_and_an_update(spread, images, one_device):
    """And a steady run compiles once: what goes in comes out with the same sharding."""
    state, stats, programs = run_update(spread, images)
    expected, expected_stats, _ = one_device(spread.config.family)[0]
    assert programs == 1 and state.step == 1
    assert {"loss", "entropy", "sampling/sampling_logp_difference/max"} <= set(stats)
    for name, value in expected_stats.items():
        np.testing.assert_allclose(stats[name], value, atol=LOGPS, rtol=LOGPS, err_msg=name)
    (mu, nu), (expected_mu, _) = moments(state.opt_state), moments(expected.opt_state)
    for tree in (state.params, mu, nu):
        assert len(jax.tree.leaves(tree)[0].sharding.device_set) == 8
        assert_where_the_rules_say(tree, spread.mesh)
    # After one update the first moment is (1 - b1) times the gradient.
    assert_trees_close(jax.device_get(mu), expected_mu, GRADIENTS)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected.params, spread.params)
    assert min(jax.tree.leaves(moved)) > 100 * WEIGHTS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=WEIGHTS),
        jax.device_get(state.params),
        expected.params,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling(spread, images, one_device, temperature, monkeypatch):
    """A draw depends on neither the devices, nor how the model is cut, nor the slots, nor how many
    rows are prefilled at a time."""
    expected = one_device(spread.config.family)[1][temperature]
    monkeypatch.setattr(qwen_vl, "CPU_TOKENS", 1)  # a row of every device
    rollout = run_sampler(spread, images, temperature, slots=8)
    np.testing.assert_array_equal(rollout.tokens, expected.tokens)
    np.testing.assert_array_equal(rollout.mask, expected.mask)
    np.testing.assert_array_equal(rollout.finished, expected.finished)
    # Thrice: products of one row are added up in another order than those of all, tower's included
    # (2.1e-5 with jax 0.12, on the mesh that cuts all three axes).
    np.testing.assert_allclose(rollout.logps, expected.logps, atol=3 * LOGPS)


def test_waves_of_prompts(spread, images):
    """Two rows of a shard are held at a time; a wave's keys go where the mesh has its shards."""
    if tuple(spread.mesh.shape.values()) != (2, 2, 2):
        pytest.skip("one mesh with all axes is enough")
    arrays = prompt_arrays(spread, PROMPTS, images, group=8, g=1)
    found = []
    for slots in (4, 0):
        how = SamplingParams(1, 8, STOP, 0, spread.config.never_sampled, slots=slots)
        with jax.set_mesh(spread.mesh):
            prompt = put_rows(Prompt.from_arrays(arrays), spread.mesh)
            sample = Sampler(spread.graphdef, how, "float32")
            found.append(jax.device_get(sample(spread.params, prompt, jax.random.key(3))))
        assert sample.wave._cache_size() == (slots > 0)
    few, whole = found
    np.testing.assert_array_equal(few.tokens, whole.tokens)
    np.testing.assert_allclose(few.logps, whole.logps, atol=3 * LOGPS)


def assert_where_the_rules_say(tree, mesh):
    """Arrays or shapes of a parameter tree carry their parameters' specs."""

    def check(path, x, expected):
        same = x.sharding.is_equivalent_to(expected, len(x.shape))
        assert same, f"{jax.tree_util.keystr(path)}: {x.sharding}, expected {expected}"

    # Shapes of a traced program have an abstract mesh.
    leaf = jax.tree.leaves(tree)[0]
    shardings = param_shardings(tree, getattr(leaf.sharding, "mesh", mesh))
    jax.tree_util.tree_map_with_path(check, tree, shardings)


def shape(sharding, *dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def abstract_update(config, mesh, *, R=8, T=64, patches=32, g=4, C=16):
    """The update of a model with such a config, its state and its batch: nothing in memory."""
    arch = hf.arch_from_config(config)
    shapes = qwen_vl.abstract_params(arch)
    check_divisible(shapes, mesh)
    params = jax.tree.map(
        lambda x, sharding: shape(sharding, *x.shape), shapes, param_shardings(shapes, mesh)
    )
    rows = NamedSharding(mesh, P(None, ROWS))

    def ints(*dims):
        return shape(rows, 1, R, *dims, dtype=jnp.int32)

    def floats(*dims):
        return shape(rows, 1, R, *dims)

    patch = (floats(patches, arch.vision.patch_values), ints(patches, 2))
    vision = Vision(*patch, segments=ints(patches), windows=ints(patches))
    prompt = Prompt(ints(T), ints(), ints(3, T), ints(), ints(T), ints(), ints(), vision)
    mask = shape(rows, 1, R, g, C, dtype=jnp.bool_)
    logps = floats(g, C)
    batch = TrainBatch(prompt, ints(g, C), mask, floats(g), logps, logps)
    policy = learner.Policy(qwen_vl.graphdef(arch), "bfloat16", "block", 1.0, 32)
    tx = learner.optimizer(Optim(), 10)
    update = learner.make_update(learner.grpo_objective(policy, GRPO()), tx, lambda step: 1.0)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda params: learner.init_state(params, tx), params)
    return update, state, batch


def moments(opt_state):
    (adam,) = (s for s in jax.tree.leaves(opt_state, is_leaf=is_adam) if is_adam(s))
    return adam.mu, adam.nu


def is_adam(x):
    return hasattr(x, "mu")


@pytest.mark.parametrize("mesh", PUBLIC_MESHES, ids=str)
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_model_can_be_cut(name, mesh):
    """Every parameter has a rule, and the rule divides it; so are heads."""
    qwen_vl.check_mesh(hf.arch_from_config(public_config(name)), make_mesh(*mesh))


@pytest.mark.parametrize("mesh", PUBLIC_MESHES, ids=str)
@pytest.mark.parametrize("name", ["qwen2_vl_2b", "qwen2_5_vl_3b", "qwen2_5_vl_72b"])
def test_the_update_of_public_models_fits_the_rules(name, mesh):
    """Traced in Explicit mode, where an operation that does not know its output's spec raises."""
    mesh = make_mesh(*mesh)
    update, state, batch = abstract_update(public_config(name), mesh)
    with jax.set_mesh(mesh):
        after, _ = jax.eval_shape(update, state, batch)
    for tree in (state.params, *moments(state.opt_state), after.params, *moments(after.opt_state)):
        assert_where_the_rules_say(tree, mesh)
    assert {x.dtype for x in jax.tree.leaves(after.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qwen2_vl_2b", 2_208_985_600),
        ("qwen2_vl_7b", 8_291_375_616),
        ("qwen2_vl_72b", 73_405_560_320),
        ("qwen2_5_vl_3b", 3_754_622_976),
        ("qwen2_5_vl_7b", 8_292_166_656),
        ("qwen2_5_vl_32b", 33_452_718_336),
        ("qwen2_5_vl_72b", 73_410_777_344),
    ],
)
def test_number_of_parameters(name, count):
    """Half of the bytes of the published bfloat16 checkpoints."""
    shapes = qwen_vl.abstract_params(hf.arch_from_config(public_config(name)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("name", ["qwen2_vl_7b", "qwen2_5_vl_7b"])
def test_most_of_a_public_model_is_split(name):
    """Norms, and biases of what is split by input, stay whole: a tenth of a percent."""
    shapes = qwen_vl.abstract_params(hf.arch_from_config(public_config(name)))
    mesh = make_mesh(1, 4, 2)
    shardings = jax.tree.leaves(param_shardings(shapes, mesh))
    here = sum(
        int(np.prod(sharding.shard_shape(x.shape)))
        for x, sharding in zip(jax.tree.leaves(shapes), shardings, strict=True)
    )
    assert here * 8 < 1.01 * sum(x.size for x in jax.tree.leaves(shapes))


def compile_update(mesh):
    mesh = make_mesh(*mesh)
    update, state, batch = abstract_update(small("qwen2_5_vl_3b"), mesh)
    with jax.set_mesh(mesh):
        update.lower(state, batch).compile()


def compile_plain_lookup(mesh):
    """What `Embedding` would be without its reshard."""
    mesh = make_mesh(*mesh)
    table = shape(NamedSharding(mesh, P("tensor", "fsdp")), 320, 64)
    tokens = shape(NamedSharding(mesh, P(ROWS, None)), 8, 6, dtype=jnp.int32)
    with jax.set_mesh(mesh):
        lookup = jax.jit(lambda t, x: t.at[x].get(out_sharding=P(ROWS, None, None)))
        lookup.lower(table, tokens).compile()


OLD_XLA = pytest.mark.skipif(
    not jax.__version__.startswith("0.10."), reason="a newer XLA looks up without replicating"
)


@pytest.mark.parametrize(
    ("call", "warned"),
    [("compile_update", False), pytest.param("compile_plain_lookup", True, marks=OLD_XLA)],
)
def test_nothing_is_replicated_by_accident(call, warned):
    """XLA warns on stderr as it compiles: a fresh process, since a cached program is silent."""
    code = f"from tests.distributed.test_mesh import *; {call}((2, 2, 2))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "TF_CPP_MIN_LOG_LEVEL": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    lines = [line for line in found.stderr.splitlines() if "nvoluntary full remat" in line]
    assert bool(lines) == warned, "\n".join(lines)


def test_every_rule_is_used():
    shapes = [qwen_vl.abstract_params(hf.arch_from_config(public_config(name))) for name in PUBLIC]
    with jax.set_mesh(make_mesh(1, 4, 2)):
        shapes += [jax.eval_shape(lambda: lora.init(shapes[0], LoRA(), jax.random.key(0)))]
    used = set()
    for path, x in jax.tree_util.tree_leaves_with_path(shapes):
        name = path_name(path[1:])
        spec = param_spec(name, x.ndim)
        assert len(spec) == x.ndim
        stacked = "blocks/" in name or "layers/" in name
        used.add(tuple(spec[1:] if stacked else spec))
        assert not stacked or spec[0] is None
    assert used == {tuple(spec) for _, spec in PARAM_RULES}


def test_a_parameter_without_a_rule():
    with pytest.raises(ValueError, match="no sharding rule for parameter text/gain"):
        param_spec("text/gain", 1)
    with pytest.raises(ValueError, match="does not fit an array of rank 3"):
        param_spec("text/embed/w", 3)


def test_what_does_not_divide_is_named():
    shapes = qwen_vl.abstract_params(hf.arch_from_config(small("qwen2_vl_2b")))
    with pytest.raises(UserError, match=r"parameter \S+ \(.*\): axis \d does not divide by 7"):
        check_divisible(shapes, make_mesh(1, 7, 1, jax.devices()[:7]))
    check_divisible(shapes, make_mesh(1, 4, 2))


FEW_HEADS = {"depth": 1, "embed_dim": 1280, "num_heads": 4, "hidden_size": 1536}


@pytest.mark.parametrize(
    ("mesh", "changes", "message"),
    [
        ((1, 1, 8), {}, "the decoder's 12 heads do not divide by mesh.tensor = 8"),
        ((1, 1, 8), {"num_attention_heads": 96, "num_key_value_heads": 3}, "3 kv heads do not fit"),
        ((1, 1, 8), {"vision_config": FEW_HEADS}, "the tower's 4 heads do not divide by"),
    ],
)
def test_heads_that_do_not_divide_are_named(mesh, changes, message):
    arch = hf.arch_from_config(public_config("qwen2_vl_2b") | changes)
    mesh = make_mesh(*mesh, jax.devices()[: mesh[2]])
    with pytest.raises(UserError, match=message):
        qwen_vl.check_mesh(arch, mesh)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def two_slices():
    """Of 2 x 4 chips each, in no order."""
    places = [(s, x, y) for y in range(4) for s in range(2) for x in range(2)]
    return [Chip(i, slice_index=s, coords=(x, y, 0)) for i, (s, x, y) in enumerate(places)]


def test_data_is_the_axis_across_slices():
    for sizes in [(2, 4, 2), (4, 4, 1), (2, 1, 8)]:
        mesh = device_layout(sizes, two_slices())
        assert mesh.shape == sizes and len({chip.id for chip in mesh.flat}) == 16
        for half, slices in zip(np.split(mesh, 2), (0, 1), strict=True):
            assert {chip.slice_index for chip in half.flat} == {slices}
    with pytest.raises(UserError, match=r"mesh.data = 1 is not a multiple of the 2 TPU slices.*=2"):
        device_layout((1, 8, 2), two_slices())


def on_processes(sizes, per_process):
    """A mesh over processes of so many devices each."""
    chips = [Chip(i, process_index=i // per_process) for i in range(int(np.prod(sizes)))]
    devices = np.array(chips, object).reshape(sizes)
    return types.SimpleNamespace(devices=devices, shape=dict(zip(AXES, sizes, strict=True)))


@pytest.mark.parametrize(
    ("sizes", "per_process", "shares"),
    [
        ((1, 1, 1), 1, [0]),
        ((2, 1, 1), 1, [0, 1]),
        ((2, 2, 2), 4, [0, 1]),
        ((1, 2, 4), 2, [0, 0, 1, 1]),  # a row's tensor axis runs across two processes
        ((1, 1, 8), 4, [0, 0]),
        ((4, 2, 1), 2, [0, 1, 2, 3]),
    ],
)
def test_which_rows_a_process_holds(sizes, per_process, shares, monkeypatch):
    mesh = on_processes(sizes, per_process)
    for process, index in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        share = data_shard(mesh)
        assert (share.index, share.count) == (index, max(shares) + 1)
        assert share.leads == tuple(shares.index(i) for i in range(share.count))
        assert share.is_lead == (process == shares.index(index))


def test_rows_that_processes_hold_in_part_together():
    with pytest.raises(UserError, match="hold rows in part together; choose a mesh.tensor"):
        data_shard(on_processes((1, 4, 3), 4))


def test_with_several_processes_every_device_takes_part():
    chips = [Chip(i, process_index=i // 2, platform="cpu") for i in range(4)]
    with pytest.raises(UserError, match=r"leaves 3 of 4 devices out.*to -1, all that remain"):
        make_mesh(devices=chips)


def test_make_mesh():
    mesh = make_mesh(2, -1, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Explicit}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, -1, 1), "at most one is -1"),
        ((0, 1, 1), "sizes are positive"),
        ((1, -2, 1), "sizes are positive"),
        ((3, -1, 1), r"\(3, -1, 1\) does not fit 8 devices"),
        ((4, 4, 1), r"\(4, 4, 1\) does not fit 8 devices"),
        ((16, -1, 1), "does not fit 8 devices"),
    ],
)
def test_meshes_that_do_not_fit(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(*sizes)


def test_rows_are_split_over_data_and_fsdp():
    mesh = make_mesh(2, 2, 2)
    x = np.arange(24.0).reshape(1, 8, 3)
    placed = put_rows({"x": x}, mesh, lead=1)["x"]
    np.testing.assert_array_equal(placed, x)
    assert placed.sharding.spec == P(None, ROWS, None)
    assert placed.sharding.shard_shape(placed.shape) == (1, 2, 3)
