# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in and out: every bit comes back, and what does not fit is named."""

import json
import logging
import warnings

import numpy as np
import pytest
from safetensors import safe_open

from jaxvl.errors import UserError
from jaxvl.models import hf
from jaxvl.vlm import load

pytest.importorskip("torch", reason="torch writes the tiny checkpoint")

from tests.tiny import make_checkpoint, old_name  # noqa: E402

V = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture
def transformers_log(caplog, monkeypatch):
    """Warnings of transformers, whose logger keeps them from pytest otherwise."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def tensors(path):
    """name -> array of every tensor in the directory, under the public names."""
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as handle:
            for name in handle.keys():  # noqa: SIM118
                assert name not in found
                found[name] = handle.get_tensor(name)
    return {old_name(name): array for name, array in found.items()}


def assert_same_tensors(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def rewrite(path, change):
    """Applies `change(dict of tensors)` to a checkpoint of one file."""
    from safetensors.numpy import save_file

    found = tensors(path)
    change(found)
    save_file(found, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "form",
    [
        {"weights": "old"},
        {"tied": False, "layout": "nested", "weights": "new", "sharded": True},
        {"dtype": "bfloat16", "weights": "old"},
    ],
    ids=["tied", "untied_nested_sharded", "bfloat16"],
)
def test_export_is_bit_equal_and_transformers_takes_it(tmp_path, pictures, transformers_log, form):
    from tests.torch_reference import hf_logits, hf_model

    source = make_checkpoint(tmp_path / "source", seed=5, **form)
    vlm = load(source, form.get("dtype", "float32"))
    vlm.save(tmp_path / "ours")
    assert_same_tensors(tensors(tmp_path / "ours"), tensors(source))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = hf_model(tmp_path / "ours")
    assert not [r.getMessage() for r in transformers_log.records]
    e = vlm.encode([f"{V}left?"], [pictures[:1]])[0]
    inputs = (e.tokens, e.patches_PE, np.array(e.grids))
    np.testing.assert_array_equal(hf_logits(model, *inputs), hf_logits(hf_model(source), *inputs))


def test_transformers_does_warn_of_a_missing_weight(tmp_path, transformers_log):
    """The check of the test above: that the messages it forbids would be seen."""
    from tests.torch_reference import hf_model

    path = make_checkpoint(tmp_path)
    rewrite(path, lambda found: found.pop("model.norm.weight"))
    hf_model(path)
    assert any("norm" in r.getMessage() for r in transformers_log.records)


def test_save_in_several_shards(vlm, tiny_path, tmp_path):
    hf.save_params(tmp_path, vlm.params, vlm.hf_config, shard_bytes=60_000)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    expected = tensors(tiny_path)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in expected.values())
    assert set(index["weight_map"].values()) == set(files)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="numpy") as handle:
            assert name in handle.keys()  # noqa: SIM118
            assert handle.get_tensor(name).nbytes <= 60_000 or len(list(handle.keys())) == 1
    assert_same_tensors(tensors(tmp_path), expected)

    # Fewer files over more of them: nothing of the old ones stays.
    hf.save_params(tmp_path, vlm.params, vlm.hf_config)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]
    assert_same_tensors(tensors(tmp_path), expected)


def test_a_saved_model_loads_as_itself(vlm, tmp_path, pictures):
    vlm.save(tmp_path)
    again = load(tmp_path, "float32")
    assert again.config == vlm.config
    assert again.processor.stop_ids == vlm.processor.stop_ids
    prompts = [f"{V}above?"]
    a, b = (v.logits(prompts, [pictures[:1]])[0] for v in (vlm, again))
    np.testing.assert_array_equal(a, b)


def test_saved_config_says_what_the_weights_are(tmp_path):
    source = make_checkpoint(tmp_path / "source", dtype="bfloat16")
    load(source, "float32").save(tmp_path / "ours")
    assert hf.read_config(tmp_path / "ours")["torch_dtype"] == "float32"
    assert all(array.dtype == np.float32 for array in tensors(tmp_path / "ours").values())


def test_missing_and_misshapen_tensors_are_all_named(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")

    def spoil(found):
        del found["model.layers.1.mlp.up_proj.weight"]
        del found["visual.blocks.0.attn.qkv.bias"]
        found["model.norm.weight"] = found["model.norm.weight"][:-1].copy()

    rewrite(path, spoil)
    with pytest.raises(UserError) as error:
        load(path, "float32")
    message = str(error.value)
    assert "model.layers.1.mlp.up_proj.weight: missing (expected [128, 64])" in message
    assert message.count("visual.blocks.0.attn.qkv.bias: missing (expected [96])") == 1
    assert "model.norm.weight: shape [63], expected [64]" in message
    assert message.count("\n") == 3  # these three and no other


def test_unused_tensors_are_listed(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")
    rewrite(path, lambda found: found.update({"model.extra.weight": np.zeros(3, np.float32)}))
    with pytest.warns(UserWarning, match=r"1 tensors are not used: model\.extra\.weight"):
        load(path, "float32")


def test_a_tied_head_saved_twice_is_no_surprise(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")
    rewrite(path, lambda f: f.update({"lm_head.weight": f["model.embed_tokens.weight"].copy()}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, "float32")


def test_missing_shards_are_named(tmp_path):
    path = make_checkpoint(tmp_path, sharded=True)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"weight files are missing: .*model-00002-of-00003"):
        load(path, "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "'llava' is not supported; supported: .*qwen2_vl"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn' is not supported; supported: default, mrope"),
        ({"vision_config": {"depth": 2}}, "field 'embed_dim' is missing"),
    ],
)
def test_configs_that_are_not_supported(vlm, change, message):
    with pytest.raises(UserError, match=message):
        hf.arch_from_config({**vlm.hf_config, **change})


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="neither a directory nor a hub id"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load(tmp_path)
