# SPDX-License-Identifier: Apache-2.0
"""What both sides of a bench read: a random Qwen2-VL checkpoint and a few questions with images.

The checkpoint is a Hugging Face directory as the public Qwen2-VL ones are (flat `config.json`,
`visual.*` and `model.*` weight names), written with numpy alone. Run as a script:

    python scripts/bench/checkpoint.py PATH {1m,9m,29m,2b} [--dtype bfloat16]
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

SHARD_BYTES = 2 * 2**30

# Fields of the text model, then of the tower. `2b` is Qwen2-VL-2B; the others fit a laptop.
SHAPES = {
    "1m": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 320,
        "vocab_size": 1024,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 4,
    },
    "9m": {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 768,
        "vocab_size": 4096,
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 4,
    },
    "29m": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 1408,
        "vocab_size": 3520,
        "embed_dim": 256,
        "depth": 4,
        "num_heads": 8,
    },
    "2b": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
        "embed_dim": 1280,
        "depth": 32,
        "num_heads": 16,
    },
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def flat_config(
    tokenizer,
    *,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    intermediate_size: int,
    vocab_size: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: int = 4,
    mrope_section: list[int] | None = None,
    tied: bool = True,
    dtype: str = "float32",
) -> dict:
    """`config.json` in the flat form of the public Qwen2-VL checkpoints, as a dict.

    `mrope_section` (t, h, w; it sums to half a head) defaults to the public proportions, 2 : 3 : 3.
    Token ids are the tokenizer's.
    """
    half = hidden_size // num_attention_heads // 2
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "vision_token_id": token("<|vision_pad|>"),
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": num_hidden_layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": num_hidden_layers,
        "num_key_value_heads": num_key_value_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": depth,
            "embed_dim": embed_dim,
            "mlp_ratio": mlp_ratio,
            "num_heads": num_heads,
            "in_chans": 3,
            "hidden_size": hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {
            "type": "mrope",
            "mrope_section": mrope_section or [half - 2 * (half * 3 // 8), *[half * 3 // 8] * 2],
        },
        "vocab_size": vocab_size,
    }


def write_side_files(path: Path, tokenizer) -> None:
    """Tokenizer, chat template, image processor and generation settings, as public Qwen2-VL has."""
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path, save_jinja_files=False)
    end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>"))
    write_json(path / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    write_json(
        path / "generation_config.json",
        {"bos_token_id": pad, "pad_token_id": pad, "do_sample": True, "eos_token_id": [end, pad]},
    )
    write_json(
        path / "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        },
    )


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every weight of a Qwen2-VL or Qwen2.5-VL with this flat config: public name -> shape."""
    width, mlp, vision = config["hidden_size"], config["intermediate_size"], config["vision_config"]
    kv = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes |= _linear(f"{layer}.self_attn.q_proj", width, width)
        shapes |= _linear(f"{layer}.self_attn.k_proj", kv, width)
        shapes |= _linear(f"{layer}.self_attn.v_proj", kv, width)
        shapes |= _linear(f"{layer}.self_attn.o_proj", width, width, bias=False)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
        shapes |= _gated(f"{layer}.mlp", width, mlp, bias=False)
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return shapes | _tower_shapes(vision, width, config["model_type"] == "qwen2_5_vl")


def _tower_shapes(vision: dict, width: int, windowed: bool) -> dict[str, tuple[int, ...]]:
    """The tower's weights and the merger's; `windowed` is Qwen2.5-VL's, with norms of no bias."""
    tower, patch = vision["hidden_size" if windowed else "embed_dim"], vision["patch_size"]
    shapes = {"visual.patch_embed.proj.weight": (tower, 3, 2, patch, patch)}

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (tower,)
        if not windowed:
            shapes[f"{name}.bias"] = (tower,)

    for i in range(vision["depth"]):
        block = f"visual.blocks.{i}"
        norm(f"{block}.norm1")
        shapes |= _linear(f"{block}.attn.qkv", 3 * tower, tower)
        shapes |= _linear(f"{block}.attn.proj", tower, tower)
        norm(f"{block}.norm2")
        if windowed:
            shapes |= _gated(f"{block}.mlp", tower, vision["intermediate_size"], bias=True)
        else:
            shapes |= _linear(f"{block}.mlp.fc1", tower * vision["mlp_ratio"], tower)
            shapes |= _linear(f"{block}.mlp.fc2", tower, tower * vision["mlp_ratio"])
    norm("visual.merger.ln_q")
    shapes |= _linear("visual.merger.mlp.0", tower * 4, tower * 4)
    shapes |= _linear("visual.merger.mlp.2", width, tower * 4)
    return shapes


def _linear(name: str, out: int, into: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _gated(name: str, width: int, mlp: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return (
        _linear(f"{name}.gate_proj", mlp, width, bias)
        | _linear(f"{name}.up_proj", mlp, width, bias)
        | _linear(f"{name}.down_proj", width, mlp, bias)
    )


def shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> list[list[str]]:
    """Names split, in order, in files of at most `SHARD_BYTES` (or one tensor, if larger)."""
    files, size = [[]], 0
    for name, shape in shapes.items():
        bytes_ = int(np.prod(shape)) * itemsize
        if files[-1] and size + bytes_ > SHARD_BYTES:
            files.append([])
            size = 0
        files[-1].append(name)
        size += bytes_
    return files


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Norms at one, all else normal with deviation 0.02, as a fresh Qwen2-VL is."""
    if name.endswith("weight") and len(shape) == 1:
        return np.ones(shape, dtype)
    tensor = rng.standard_normal(shape, dtype=np.float32)
    tensor *= 0.02
    return tensor.astype(dtype, copy=False)


def write_checkpoint(path: str | Path, shape: str, dtype: str = "float32", seed: int = 0) -> int:
    """Write a random checkpoint of one of `SHAPES`; returns its number of parameters.

    One shard of at most 2 GiB is in memory at a time (one large tensor in float32 beside it).
    """
    import ml_dtypes

    from jaxvl.data.tokenizer import train_tokenizer

    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    numpy_dtype = np.dtype({"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype])
    fields = SHAPES[shape]
    tokenizer = train_tokenizer(texts(seed), vocab_size=min(fields["vocab_size"], 4096))
    config = flat_config(tokenizer, dtype=dtype, **fields)
    write_side_files(path, tokenizer)
    write_json(path / "config.json", config)

    shapes = tensor_shapes(config)
    files = shards(shapes, numpy_dtype.itemsize)
    rng = np.random.default_rng(seed)
    parts = ({name: random_tensor(rng, name, shapes[name], numpy_dtype) for name in names}
             for names in files)  # fmt: skip
    write_weights(path, parts, len(files))
    return sum(int(np.prod(shape)) for shape in shapes.values())


def write_weights(path: Path, parts: Iterable[dict[str, np.ndarray]], files: int) -> None:
    """`model.safetensors`, or `files` of them with their index; a part is a file."""
    from safetensors.numpy import save_file

    weight_map, size = {}, 0
    for i, tensors in enumerate(parts, start=1):
        file = f"model-{i:05d}-of-{files:05d}.safetensors" if files > 1 else "model.safetensors"
        save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if files > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_json(path / "model.safetensors.index.json", index)


def texts(seed: int) -> Iterator[str]:
    """Sentences of made-up words, enough of them that a byte-level BPE finds 4096 tokens."""
    rng = np.random.default_rng(seed)
    syllables = [c + v for c in "bcdfghjklmnprstvz" for v in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 5))) for _ in range(4000)]
    for _ in range(2000):
        yield " ".join(rng.choice(words, 12)) + "."


def questions(count: int, image_size: int, seed: int = 0) -> list[tuple[str, object]]:
    """`count` pairs (question, PIL image of image_size x image_size random pixels).

    The questions have the same length, so that no prompt of a batch is padded on either side.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels_NHWC = rng.integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    return [("Which shape is to the left?", Image.fromarray(p)) for p in pixels_NHWC]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a random Qwen2-VL checkpoint for a bench.")
    parser.add_argument("path", type=Path)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    print(f"{write_checkpoint(args.path, args.shape, args.dtype):,} parameters in {args.path}")
