# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints of both families in Hugging Face format, made with numpy; and the shapes
of the published ones."""

import re
from pathlib import Path

import ml_dtypes  # noqa: F401  (numpy learns what bfloat16 is)
import numpy as np
from transformers import AutoConfig

from jaxvl.models.public import NAMES as PUBLIC  # noqa: F401  (tests take both from here)
from jaxvl.models.public import config as public_config  # noqa: F401
from scripts.bench.checkpoint import (
    flat_config,
    tensor_shapes,
    write_json,
    write_side_files,
    write_weights,
)

# head_dim 16 (text) and 8 (tower); mrope_section [2, 3, 3]; the vocabulary is the tokenizer's.
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
}

# Of a Qwen2.5-VL tower: windows of 2 x 2 merged patches, of which a small picture has several.
WINDOWS = {"window_size": 56, "fullatt_block_indexes": [1, 3]}

TEXTS = [
    "Which shape is to the left of the red circle? Answer with a letter.",
    "How many blue squares are there in the image? There are 12, not 3.",
    "You are a helpful assistant. Describe the image: a green triangle above a yellow cube.",
    "<think>The large sphere is behind the small cylinder.</think><answer>(B)</answer>",
]


def make_tokenizer():
    """A byte-level BPE tokenizer in Qwen2's format, trained on `TEXTS`."""
    from jaxvl.data.tokenizer import train_tokenizer

    return train_tokenizer(TEXTS, vocab_size=320)


def make_checkpoint(
    path: str | Path,
    *,
    family: str = "qwen2_vl",
    tied: bool = True,
    layout: str = "flat",
    weights: str = "new",
    sharded: int = 0,
    dtype: str = "float32",
    seed: int = 0,
    gain: float = 1.5,
    **shape,
) -> Path:
    """Write a checkpoint directory that depends on the arguments alone; returns its path.

    layout: "flat" (config.json as the public checkpoints have it) or "nested" (transformers 5's).
    weights: names as transformers 5 has them ("new": `model.visual.*`, `model.language_model.*`) or
    as the public checkpoints do ("old": `visual.*`, `model.*`). shape: fields of `SHAPE`,
    `vocab_size` or `mrope_section`. sharded: in how many files. dtype: what the weights are stored
    in. gain: see `random_tensors`.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    fields = {"vocab_size": -(-len(tokenizer) // 8) * 8} | SHAPE | shape
    flat = flat_config(tokenizer, tied=tied, dtype=dtype, **fields)
    if family == "qwen2_5_vl":
        flat = windowed(flat)
    tensors = random_tensors(tensor_shapes(flat), seed, gain)
    tensors = {name: x.astype(np.dtype(dtype)) for name, x in tensors.items()}
    if weights == "new":
        tensors = {new_name(name): tensor for name, tensor in tensors.items()}
    names, files = list(tensors), sharded or 1
    parts = ({name: tensors[name] for name in names[i::files]} for i in range(files))
    write_weights(path, parts, files)
    write_side_files(path, tokenizer)
    if layout == "nested":
        config = AutoConfig.for_model(**flat)
        config.vision_config.dtype = dtype  # as the config of a model that was saved has it
        config.save_pretrained(path)
    else:
        write_json(path / "config.json", flat)
    return path


def windowed(flat: dict) -> dict:
    """The flat config of a Qwen2.5-VL with the sizes of a Qwen2-VL's."""
    vision = dict(flat["vision_config"])
    width = vision.pop("embed_dim")
    sizes = {
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": width * vision.pop("mlp_ratio"),
        "out_hidden_size": flat["hidden_size"],
        "tokens_per_second": 2,
    }
    return flat | {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vision_config": vision | sizes | WINDOWS,
    }


def random_tensors(
    shapes: dict[str, tuple[int, ...]], seed: int, gain: float
) -> dict[str, np.ndarray]:
    """Give every weight, biases and norms too, values that a wrong or missing one would show.

    Matrices are normal with deviation gain / sqrt(inputs). At 1.5 attention is far from uniform,
    logits spread by 1.5 and a greedy completion does not repeat its last token, as it does at 1,
    where errors do not grow from layer to layer.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            tensors[name] = noise * np.float32(gain * noise[0].size ** -0.5)
        elif "norm" in name or "ln_q" in name:
            tensors[name] = noise * np.float32(0.2) + np.float32(name.endswith("weight"))
        else:
            tensors[name] = noise * np.float32(0.1)
    return tensors


def old_name(name: str) -> str:
    """The name that the public Qwen2-VL checkpoints give to transformers 5's `name`."""
    return re.sub(r"^model\.visual\.", "visual.", name.replace("model.language_model.", "model."))


def new_name(name: str) -> str:
    """The inverse of `old_name`."""
    name = re.sub(r"^model\.", "model.language_model.", name)
    return re.sub(r"^visual\.", "model.visual.", name)
