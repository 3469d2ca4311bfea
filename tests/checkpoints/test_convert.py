# SPDX-License-Identifier: Apache-2.0
"""Models written anew: every weight as it was, from directories and from runs."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxvl
from jaxvl.checkpoints import convert as module
from jaxvl.checkpoints.convert import convert, stored_dtype
from jaxvl.checkpoints.start import locate, start_model
from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import LoRA, Model
from jaxvl.config.fields import to_json
from jaxvl.data import test_sets
from jaxvl.errors import UserError
from jaxvl.eval.engines.local import open_model
from jaxvl.models import partition
from jaxvl.models.layers import cast
from jaxvl.plan.programs import read_arch
from jaxvl.rl.learner import TrainState
from jaxvl.vlm import load


def tensors(path):
    """All tensors of a checkpoint directory, as the file names them."""
    return {k: v for file in path.glob("*.safetensors") for k, v in load_file(file).items()}


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def stored_as(tiny_path, tmp_path, dtype):
    """The tiny checkpoint with its weights rounded to `dtype`."""
    path = tmp_path / dtype
    path.mkdir()
    for file in tiny_path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    weights = {k: v.astype(jnp.dtype(dtype)) for k, v in tensors(tiny_path).items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path, weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_no_weight_changes_unless_another_dtype_is_asked_for(tiny_path, tmp_path, dtype):
    source, weights = stored_as(tiny_path, tmp_path, dtype)
    out = convert(source, tmp_path / "out")
    wide = "bfloat16" if dtype == "bfloat16" else "float32"
    assert stored_dtype(out) == wide
    same(tensors(out), {k: v.astype(jnp.dtype(wide)) for k, v in weights.items()})
    config = json.loads((out / "config.json").read_text())
    assert (config.get("dtype") or config["torch_dtype"]) == wide
    narrow = tensors(convert(source, tmp_path / "narrow", "bfloat16"))
    same(narrow, {k: v.astype(jnp.bfloat16) for k, v in weights.items()})


def test_prompts_stay_the_same(tiny_path, tmp_path, vlm):
    messages = [{"role": "user", "content": "How many?"}]
    again = load(convert(tiny_path, tmp_path / "out"), "float32")
    assert again.processor.render(messages) == vlm.processor.render(messages)
    np.testing.assert_array_equal(again.logits([messages])[0], vlm.logits([messages])[0])


def test_what_exists_is_not_written_over(tiny_path, tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path, tmp_path / "file", tiny_path):
        with pytest.raises(UserError, match=f"{out} exists and is not an empty directory"):
            convert(tiny_path, out)
    (tmp_path / "empty").mkdir()
    assert convert(tiny_path, tmp_path / "empty") == tmp_path / "empty"


def test_a_conversion_that_was_cut_short_leaves_no_directory(tiny_path, tmp_path, monkeypatch):
    def broken(self, path):
        path.mkdir()
        (path / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.VLM, "save", broken)
        convert(tiny_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (convert(tiny_path, tmp_path / "out") / "half").exists()


def write_config(run_dir, model):
    (run_dir / "config.json").write_text(json.dumps({"model": to_json(model)}))


@pytest.fixture
def run_dir(tiny_path, tmp_path, vlm):
    """A run of three steps: a checkpoint of 2 and one of 3, in which every weight is negated."""
    write_config(tmp_path, Model(str(tiny_path), max_pixels=7056))
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, sign in ((2, 1.0), (3, -1.0)):
        params = jax.tree.map(lambda x, sign=sign: sign * x, vlm.params)
        checkpoints.save(step, TrainState(jnp.int32(step), params, params), {"step": step})
    checkpoints.close()
    return tmp_path


def test_a_runs_newest_checkpoint_becomes_a_model(run_dir, vlm):
    trained = load(convert(run_dir, run_dir / "out"), "float32")
    same(trained.params, jax.tree.map(lambda x: -x, vlm.params))
    assert trained.processor.image.max_pixels == 7056
    assert stored_dtype(convert(run_dir, run_dir / "small", "bfloat16")) == "bfloat16"


def test_what_a_run_has_frozen_is_the_base_models(run_dir, tiny_path, vlm):
    """In the dtype that the run held it in."""
    write_config(run_dir, Model(str(tiny_path), dtype="bfloat16", train=("text",)))
    checkpoints = Checkpoints(run_dir, keep=1)
    trained = {"text": jax.tree.map(lambda x: 2 * x, vlm.params["text"])}
    checkpoints.save(4, TrainState(jnp.int32(4), trained, ()), {})
    checkpoints.close()
    found = load(convert(run_dir, run_dir / "out"), "float32").params
    same(found["text"], trained["text"])
    same(found["vision"], cast(cast(vlm.params["vision"], "bfloat16"), "float32"))


def test_a_run_of_adapters_is_folded_into_the_base(run_dir, tiny_path, vlm):
    settings = LoRA(rank=3, alpha=6.0, targets=("q", "down"))
    write_config(run_dir, Model(str(tiny_path), train=(), lora=settings))
    adapted = vlm.adapted(settings)
    _, adapters = partition.partition(adapted.params, ("text", "tower", "merger"))
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)  # b is 0 in a fresh one
    checkpoints = Checkpoints(run_dir, keep=1)
    checkpoints.save(4, TrainState(jnp.int32(4), adapters, ()), {})
    checkpoints.close()
    found = load(convert(run_dir, run_dir / "out"), "float32")
    expected = dataclasses.replace(adapted, params=partition.combine(adapted.params, adapters))
    ours, theirs = (model.logits(["How many?"])[0] for model in (found, expected))
    assert np.abs(theirs - vlm.logits(["How many?"])[0]).max() > 0.1
    # float32: x (w + a b) against x w + (x a) b, over two layers
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_mark_of_test_data_stays(run_dir):
    test_sets.mark(run_dir, ["MathVista"])
    out = convert(run_dir, run_dir / "out")
    assert test_sets.marks(out) == test_sets.marks(convert(out, run_dir / "again")) == ["MathVista"]


def test_runs_that_cannot_be_converted_say_why(run_dir, vlm, tmp_path_factory):
    other = Checkpoints(tmp_path_factory.mktemp("other"), keep=1)
    folder = other.path.parent
    (folder / "config.json").write_text((run_dir / "config.json").read_text())
    with pytest.raises(UserError, match=re.escape(f"{other.path} holds no checkpoint yet")):
        convert(folder, folder / "out")
    params = {"adapter": {"w": jnp.zeros(3)}}
    other.save(1, TrainState(jnp.int32(1), params, params), {})
    other.close()
    with pytest.raises(UserError, match="adapter/w is not a parameter of .*started with"):
        convert(folder, folder / "out")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json that names its model"):
        convert(folder, folder / "out")
    assert not (folder / "out").exists()


def test_a_run_and_its_steps_are_models(run_dir, tiny_path, vlm):
    """By every way to one: `jaxvl.load`, a config's model.path, `convert`, `eval`."""
    first, newest = vlm.params, jax.tree.map(lambda x: -x, vlm.params)
    for path, params in (
        (run_dir, newest),
        (run_dir / "checkpoints", newest),
        (run_dir / "checkpoints/3", newest),
        (f"{run_dir}/checkpoints/2/", first),
        (tiny_path, first),
    ):
        same(jaxvl.load(path, "float32").params, params)
    half = jaxvl.load(run_dir / "checkpoints/2", min_pixels=784, max_pixels=1000)
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}
    assert (half.processor.image.min_pixels, half.processor.image.max_pixels) == (784, 1000)
    at = [open_model(f"{run_dir}/checkpoints/{n}", "float32", vlm.mesh)[1] for n in (2, 3)]
    assert at[0] != at[1]
    trained = load(convert(run_dir / "checkpoints/2", run_dir / "two"), "float32")
    same(trained.params, first)
    step = Model(str(run_dir / "checkpoints/3"))
    same(start_model(step, vlm.mesh).params, newest)
    assert read_arch(step) == vlm.config


def test_a_run_from_a_runs_step(run_dir, vlm, tmp_path_factory):
    """What the second starts from is the first's step, whatever the first does since."""
    second = tmp_path_factory.mktemp("second")
    write_config(second, Model(str(run_dir / "checkpoints/2"), train=("text",)))
    checkpoints = Checkpoints(second, keep=1)
    trained = {"text": jax.tree.map(lambda x: 3 * x, vlm.params["text"])}
    checkpoints.save(1, TrainState(jnp.int32(1), trained, ()), {})
    checkpoints.close()
    test_sets.mark(run_dir, ["MathVista"])
    found = jaxvl.load(second, "float32").params
    same(found["text"], trained["text"])
    same(found["vision"], vlm.params["vision"])
    assert test_sets.marks(locate(run_dir / "checkpoints/2").folder) == ["MathVista"]


def test_a_run_without_checkpoints_is_its_export(run_dir, vlm):
    with pytest.raises(UserError, match=r"no export yet .*checkpoints/STEP.*jaxvl convert"):
        start_model(Model(str(run_dir)), vlm.mesh)
    with pytest.raises(UserError, match=r"checkpoints/4 is no whole checkpoint; the run has 3, 2"):
        jaxvl.load(run_dir / "checkpoints/4")
    vlm.save(run_dir / "hf")
    same(start_model(Model(str(run_dir)), vlm.mesh).params, vlm.params)
    same(load(run_dir, "float32").params, vlm.params)
    (run_dir / "finished.json").write_text('{"steps": 3}')
    write_config(run_dir, Model("a/folder/that/is/elsewhere"))
    same(jaxvl.load(run_dir, "float32").params, vlm.params)
    shutil.rmtree(run_dir / "checkpoints")
    settings = {"model": to_json(Model("elsewhere")), "run": {}}
    (run_dir / "config.json").write_text(json.dumps(settings))
    same(jaxvl.load(run_dir, "float32").params, vlm.params)
    shutil.rmtree(run_dir / "hf")
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        jaxvl.load(run_dir)


def test_adapters_alone_are_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds adapters alone; give a whole model"):
        jaxvl.load(tmp_path)
