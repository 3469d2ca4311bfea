# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in and out: every bit comes back, and what does not fit is named."""

import gc
import json
import logging
import re
import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from safetensors import safe_open

from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.models import qwen_vl
from jaxvl.models.io import hf, names
from jaxvl.vlm import load
from tests.tiny import PUBLIC, make_checkpoint, old_name, public_config

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
        {"tied": False, "layout": "nested", "weights": "new", "sharded": 3},
        {"dtype": "bfloat16", "weights": "old"},
        {"family": "qwen2_5_vl", "weights": "old", "dtype": "bfloat16"},
        {"family": "qwen2_5_vl", "tied": False, "layout": "nested", "sharded": 3},
    ],
    ids=["tied", "untied_nested_sharded", "bfloat16", "windowed", "windowed_nested"],
)
def test_export_is_bit_equal_and_transformers_takes_it(tmp_path, pictures, transformers_log, form):
    pytest.importorskip("torch", reason="transformers' model is the reference")
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
    pytest.importorskip("torch", reason="transformers' model is the reference")
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


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_saved_config_says_what_the_weights_are(tmp_path, layout):
    source = make_checkpoint(tmp_path / "source", dtype="bfloat16", layout=layout)
    load(source, "float32").save(tmp_path / "ours")
    assert all(array.dtype == np.float32 for array in tensors(tmp_path / "ours").values())
    config = hf.read_config(tmp_path / "ours")
    parts = [config] + [config[name] for name in ("text_config", "vision_config") if name in config]
    said = [part[key] for part in parts for key in ("dtype", "torch_dtype") if key in part]
    assert said == ["float32"] * (3 if layout == "nested" else 1)


def test_loading_holds_the_parameters_and_little_more(tmp_path):
    """On a CPU the parameters are host memory too; a shard is an eighth of them."""
    path = make_checkpoint(
        tmp_path, hidden_size=256, intermediate_size=1024, num_hidden_layers=8, sharded=8
    )
    load(path, "float32")  # what is imported and cached stays out of the measure
    shards = [file.stat().st_size for file in path.glob("*.safetensors")]
    assert len(shards) == 8
    for dtype, size in (("float32", sum(shards)), ("bfloat16", sum(shards) / 2)):
        gc.collect()
        tracemalloc.start()
        params = load(path, dtype).params
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert abs(sum(x.nbytes for x in jax.tree.leaves(params)) - size) < 0.01 * size
        assert size < peak < size + 2 * max(shards)


def test_a_device_reads_its_part_alone(tmp_path, monkeypatch):
    """Of a mesh that splits every matrix in four; what several devices hold is read once."""
    path = make_checkpoint(tmp_path)
    read = []

    def read_part(*args):
        read.append(part := names.read_part(*args))
        return part

    monkeypatch.setattr(hf, "read_part", read_part)
    params = load(path, "float32", make_mesh(2, 2, 2)).params
    assert sum(x.size for x in read) == sum(x.size for x in jax.tree.leaves(params))
    embed = params["text"]["embed"]["w"]
    assert {x.shape for x in read if x.shape[0] == embed.shape[0]} == set()
    assert sum(x.shape == (embed.shape[0] // 2, embed.shape[1] // 2) for x in read) == 4


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


def test_a_tensor_of_another_kind_is_named(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")
    rewrite(path, lambda f: f.update({"model.norm.weight": np.ones(64, np.int8)}))
    with pytest.raises(UserError, match=r"model\.norm\.weight: stored as I8, expected BF16"):
        load(path, "float32")


def test_unused_tensors_are_listed(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")
    extra = {f"model.extra.{i}.weight": np.zeros(3, np.float32) for i in range(12)}
    rewrite(path, lambda found: found.update(extra))
    with pytest.warns(UserWarning, match=f"12 tensors are not used: {', '.join(sorted(extra))}$"):
        load(path, "float32")


def test_a_tied_head_saved_twice_is_no_surprise(tmp_path):
    path = make_checkpoint(tmp_path, weights="old")
    rewrite(path, lambda f: f.update({"lm_head.weight": f["model.embed_tokens.weight"].copy()}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path, "float32")
    rewrite(path, lambda f: f.update({"lm_head.weight": f["lm_head.weight"] * 2}))
    with pytest.raises(UserError, match="says tie_word_embeddings, but lm_head.weight is not"):
        load(path, "float32")


def test_missing_shards_are_named(tmp_path):
    path = make_checkpoint(tmp_path, sharded=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"weight files are missing: .*model-00002-of-00003"):
        load(path, "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, "'llava' is not supported; supported: qwen2_vl, qwen2_5_vl"),
        ({"model_type": "qwen2_5_vl_text"}, "'qwen2_5_vl_text' is not supported; supported"),
        ({"text_config": {"model_type": "qwen3"}}, "text_config.model_type 'qwen3' is not"),
        ({"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn' is not supported .*: default, mrope"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported .*: silu"),
        (
            {"vision_config": {"hidden_act": "relu"}},
            "'relu' is not supported .*: (quick_gelu|silu)",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config .* is not supported"),
        ({"vision_config": {"depth": 2}}, "the tower gives 3584 values a token and .* takes"),
        ({"vision_config": None}, "the tower gives 3584 values a token and .* takes"),
        ({"num_attention_heads": 7}, r"hidden_size / num_attention_heads is \d+ / 7"),
    ],
)
@pytest.mark.parametrize("name", ["qwen2_vl_2b", "qwen2_5_vl_3b"])
def test_configs_that_are_not_supported(name, change, message):
    config = {**public_config(name), **change}
    with pytest.raises(UserError, match=message):
        hf.arch_from_config({key: x for key, x in config.items() if x is not None})


@pytest.mark.parametrize("name", ["qwen2_vl_2b", "qwen2_5_vl_3b"])
def test_nulls_in_a_config(name):
    """What a model is made of is named; how positions turn, and key heads, count as not said."""
    flat = public_config(name)
    arch, named = hf.arch_from_config(flat), set()
    tower = {"depth": 1, "num_heads": 1, "mlp_ratio": 1, **flat["vision_config"]}
    changes = [{field: None} for field in flat if field != "model_type"]
    changes += [{"vision_config": {**flat["vision_config"], field: None}} for field in tower]
    for change in changes:
        try:
            hf.arch_from_config(flat | change)
        except UserError as error:
            if found := re.match(r"config.json: (\w+) is null", str(error)):
                named.add(found[1])
    made_of = {"hidden_size", "num_attention_heads", "vocab_size", "rms_norm_eps", "depth"}
    assert named >= {*made_of, "num_heads", "image_token_id", "vision_start_token_id"}
    assert not named & {"num_key_value_heads", "rope_theta", "rope_scaling"}
    turns = {"rope_scaling": {"type": "mrope", "mrope_section": None}, "rope_theta": None}
    assert hf.arch_from_config(flat | turns) == arch
    heads = hf.arch_from_config(flat | {"num_key_value_heads": None}).text
    assert heads.kv_heads == heads.heads


@pytest.mark.parametrize("name", PUBLIC)
def test_nested_configs_mean_what_flat_ones_do(name):
    """Nested: as transformers 5 writes them, and with what older versions put elsewhere."""
    from transformers import AutoConfig

    flat = public_config(name)
    arch = hf.arch_from_config(flat)
    nested = AutoConfig.for_model(**flat).to_dict()
    assert "text_config" in nested and "hidden_size" not in nested
    assert hf.arch_from_config(nested) == arch
    nested["text_config"]["tie_word_embeddings"] = nested.pop("tie_word_embeddings")
    nested["text_config"]["rope_scaling"] = nested["text_config"].pop("rope_parameters")
    nested["vision_config"]["model_type"] = arch.family
    assert hf.arch_from_config(nested) == arch


def pruned(config, defaults):
    """What differs from the class's defaults, as `PreTrainedConfig.to_diff_dict` leaves it."""
    kept = {name: x for name, x in config.items() if name not in defaults or x != defaults[name]}
    return kept | {"model_type": config["model_type"]}


@pytest.mark.parametrize("layout", ["tower pruned", "both pruned", "nothing but sizes"])
@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_config_leaves_out_is_what_transformers_class_says(name, layout):
    """Releases 4.45 to 4.51 write a flat config and prune the tower's, later ones prune both."""
    from transformers import AutoConfig

    flat = public_config(name)
    arch = hf.arch_from_config(flat)
    family = AutoConfig.for_model(arch.family)
    whole = AutoConfig.for_model(**flat).to_dict()
    tower = pruned(
        flat["vision_config"] | {"model_type": arch.family}, family.vision_config.to_dict()
    )
    text = pruned(whole["text_config"], family.text_config.to_dict())
    if layout == "tower pruned":
        config = flat | {"vision_config": tower}
    else:
        config = whole | {"vision_config": tower, "text_config": text}
        if layout == "nothing but sizes":
            ids = ("image_token_id", "video_token_id")
            config = {k: x for k, x in config.items() if k not in (*ids, "vision_start_token_id")}
    assert "patch_size" not in tower and hf.arch_from_config(config) == arch


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("field", ["depth", "num_heads", "in_channels", "spatial_merge_size"])
def test_a_field_of_the_tower_that_is_said_counts(family, field):
    name = {"qwen2_vl": "qwen2_vl_7b", "qwen2_5_vl": "qwen2_5_vl_7b"}[family]
    flat = public_config(name)
    said = flat | {"vision_config": flat["vision_config"] | {field: 4}}
    ours = {"num_heads": "heads", "spatial_merge_size": "merge_size"}.get(field, field)
    assert getattr(hf.arch_from_config(said).vision, ours) == 4
    without = {k: x for k, x in flat["vision_config"].items() if k != field}
    assert hf.arch_from_config(flat | {"vision_config": without}) == hf.arch_from_config(flat)


@pytest.mark.parametrize(
    ("file", "change", "found"),
    [
        ("config.json", {"vocab_size": 312}, "the tokenizer's last token .* = 31[2-9]"),
        ("config.json", {"eos_token_id": 320}, "config.json: eos_token_id = 320"),
        ("config.json", {"bos_token_id": 151643}, "config.json: bos_token_id = 151643"),
        ("config.json", {"pad_token_id": -1}, "config.json: pad_token_id = -1"),
        ("generation_config.json", {"eos_token_id": [1, 999]}, "eos_token_id = 999"),
        ("generation_config.json", {"pad_token_id": 151643}, "config.json: pad_token_id = 151643"),
    ],
)
def test_tokens_beyond_the_embedding_are_refused(tmp_path, file, change, found):
    path = make_checkpoint(tmp_path)
    old = path / file
    said = json.loads(old.read_text()) if old.is_file() else {}
    old.write_text(json.dumps(said | change))
    with pytest.raises(UserError, match=rf"the embedding has 3\d\d rows .*{found}"):
        load(path, "float32")


@pytest.mark.parametrize(
    "names",
    [
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
        ["pytorch_model.bin.index.json"],
    ],
)
def test_weights_of_pickles_say_what_to_do(tmp_path, names):
    path = make_checkpoint(tmp_path)
    (path / "model.safetensors").unlink()
    for name in names:
        (path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="no model.safetensors, and .*write safetensors with"):
        load(path, "float32")


@pytest.mark.parametrize("name", PUBLIC)
def test_the_table_has_every_weight_of_the_public_models(name):
    torch = pytest.importorskip("torch", reason="transformers' model is the reference")
    from transformers import AutoConfig, AutoModelForImageTextToText

    flat = public_config(name)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**flat))
    expected = {old_name(key): tuple(x.shape) for key, x in model.state_dict().items()}
    if flat["tie_word_embeddings"]:
        del expected["lm_head.weight"]
    found = {}
    for _, theirs, kind, x in names.entries(qwen_vl.abstract_params(hf.arch_from_config(flat))):
        stacked = names.is_stacked(theirs)
        for i in range(x.shape[0] if stacked else 1):
            stored = names.stored_shape(kind, x.shape[1:] if stacked else x.shape)
            found[theirs.format(i)] = (*stored[:1], 3, 2, 14, 14) if kind == "conv" else stored
    assert found == expected


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="neither a directory nor a hub id"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("shape", "field"), [({"num_hidden_layers": 3}, "num_hidden_layers"), ({"depth": 3}, "depth")]
)
def test_more_layers_than_the_config_says_are_another_model(tmp_path, shape, field):
    path = make_checkpoint(tmp_path / "three", weights="old", **shape)
    other = make_checkpoint(tmp_path / "two", weights="old")
    (path / "config.json").write_bytes((other / "config.json").read_bytes())
    with pytest.raises(UserError, match=rf"config.json leaves out, .*\.2\..*{field} says"):
        load(path, "float32")
