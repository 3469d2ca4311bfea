# SPDX-License-Identifier: Apache-2.0
"""A broken file of a checkpoint is a message that names it, and a whole one is none."""

import json
import shutil
import struct

import numpy as np
import pytest

from jaxvl.data.prompts import Processor
from jaxvl.errors import UserError
from jaxvl.models.io import hf, sound
from jaxvl.models.public import NAMES, config

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_path, tmp_path):
    return shutil.copytree(tiny_path, tmp_path / "model")


def header(change):
    """A fault of the header: `change` gets it as an object, and the file's other bytes."""

    def damage(file):
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        said, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
        said = change(said) or said
        text = json.dumps(said).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + rest)

    return damage


def first(**fields):
    def change(said):
        name = next(name for name in said if name != "__metadata__")
        said[name] = {**said[name], **fields}

    return header(change)


FAULTS = {
    "empty": lambda f: f.write_bytes(b""),
    "seven bytes": lambda f: f.write_bytes(f.read_bytes()[:7]),
    "cut in the header": lambda f: f.write_bytes(f.read_bytes()[:100]),
    "cut in the tensors": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "cut in half": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"x"),
    "zeros": lambda f: f.write_bytes(bytes(f.stat().st_size)),
    "a page of a site": lambda f: f.write_bytes(b"<!DOCTYPE html><html>404</html>" * 99),
    "a pointer of git-lfs": lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "a header that is no JSON": lambda f: f.write_bytes(
        f.read_bytes()[:8] + b"x" + f.read_bytes()[9:]
    ),
    "a header that is a list": header(lambda said: [1]),
    "a huge header": lambda f: f.write_bytes(struct.pack("<Q", 2**63) + f.read_bytes()[8:]),
    "no offsets": first(data_offsets=None),
    "offsets backwards": first(data_offsets=[8, 0]),
    "a gap": first(data_offsets=[4, 8]),
    "another shape": first(shape=[1, 2, 3]),
    "a negative shape": first(shape=[-1]),
    "a shape of words": first(shape=["a"]),
    "a tensor gone": header(lambda said: said.pop(next(n for n in said if "embed" in n)) and None),
    "a folder": lambda f: (f.unlink(), f.mkdir()),
}


def test_a_tensor_that_is_there_twice(folder):
    """In a header, or in two files: which one is meant nobody knows."""
    whole = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    said = json.loads(whole[8 : 8 + length])
    name = next(name for name in said if name != "__metadata__")
    text = json.dumps(said)[:-1] + f", {json.dumps(name)}: {json.dumps(said[name])}}}"
    (folder / WEIGHTS).write_bytes(
        struct.pack("<Q", len(text)) + text.encode() + whole[8 + length :]
    )
    with pytest.raises(UserError, match=f"{WEIGHTS} .*{name}.* stands 2 times"):
        hf._find_tensors(folder)
    files = [f"model-{i}-of-2.safetensors" for i in (1, 2)]
    for file in files:
        (folder / file).write_bytes(whole)
    index = {"weight_map": {"a": files[0], "b": files[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"{files[1]}: the tensor .* is in {files[0]} too"):
        hf._find_tensors(folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_not_whole(folder, fault):
    FAULTS[fault](folder / WEIGHTS)
    with pytest.raises(UserError, match=WEIGHTS):
        hf._find_tensors(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
    + ['{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": "/etc/passwd"}}']
    + ['{"weight_map": {"a": ""}}', "[" * 5000, "\x00"],
)
def test_an_index_that_is_none(folder, text):
    (folder / f"{WEIGHTS}.index.json").write_text(text)
    with pytest.raises(UserError, match=f"{WEIGHTS}.index.json (is no index|names)"):
        hf._find_tensors(folder)


def test_what_is_whole_is_let_through(folder, tiny_path):
    assert sound.check_weights(folder) == [folder / WEIGHTS]
    for name in NAMES:
        sound.check_config(folder / "config.json", config(name))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", 0),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", True),
        ("num_hidden_layers", 10**9),
        ("vision_config.depth", 10**9),
        ("num_attention_heads", 2**40),
        ("vocab_size", [320]),
        ("intermediate_size", {}),
        ("num_key_value_heads", 1.5),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", -1.0),
        ("rope_theta", float("inf")),
        ("model_type", 3),
        ("text_config", "x"),
        ("image_token_id", "<image>"),
        ("vision_config", []),
        ("vision_config.depth", 0),
        ("vision_config.num_heads", "2"),
        ("vision_config.patch_size", -14),
        ("vision_config.mlp_ratio", 0),
        ("vision_config.fullatt_block_indexes", "7"),
        ("rope_scaling", "default"),
        ("rope_scaling.mrope_section", [1, 2]),
        ("rope_scaling.mrope_section", [1, 2, "3"]),
        ("rope_scaling.type", []),
    ],
)
def test_a_field_of_a_config_that_cannot_be(folder, field, value):
    said = json.loads((folder / "config.json").read_text())
    *parents, last = field.split(".")
    node = said
    for name in parents:
        node = node[name]
    node[last] = value
    (folder / "config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=f"config.json: {field} is .*; expected"):
        hf.read_config(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 5000, "\udcff", "\x00"])
def test_a_config_that_is_none(folder, text):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="config.json"):
        hf.read_config(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"model": 3}', "\x00", '{"version": "1.0"}']
)
def test_a_tokenizer_that_is_none(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="cannot load the tokenizer|has no <"):
        Processor.from_pretrained(folder)


class Panic(BaseException):
    """As the Rust of the tokenizers library raises them: no Exception."""


@pytest.mark.parametrize("raised, told", [(Panic, UserError), (KeyboardInterrupt, None)])
def test_a_panic_of_the_tokenizers_library(folder, monkeypatch, raised, told):
    def panics(*args, **kwargs):
        raise raised("range end index 7 out of range for slice of length 6")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panics)
    with pytest.raises(told or raised, match="range end index 7"):
        Processor.from_pretrained(folder)


def test_flips_in_a_header_never_raise_anything_else(folder):
    """Most make it no header, others change a name; what they may not do is escape."""
    rng, whole = np.random.default_rng(0), (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for at in rng.integers(0, 8 * (8 + length), 60):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        (folder / WEIGHTS).write_bytes(bytes(data))
        try:
            hf._find_tensors(folder)
        except UserError as error:
            assert WEIGHTS in str(error)
