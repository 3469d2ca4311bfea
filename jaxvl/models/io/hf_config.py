# SPDX-License-Identifier: Apache-2.0
"""config.json of a Hugging Face checkpoint: the model's shape, and whether its tokens fit it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvl.data.image_settings import ImageSettings
from jaxvl.data.strict_json import contents, loads
from jaxvl.errors import UserError
from jaxvl.models.arch import Arch, TextArch, VisionArch
from jaxvl.models.io.sound import check_config

# Of each family: the activation of the tower's MLPs.
FAMILIES = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu"}


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint directory."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path}: no config.json; a Hugging Face checkpoint directory is expected")
    try:
        config = loads(contents(file))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error})") from error
    check_config(file, config)
    return config


def arch_from_config(config: Mapping[str, Any]) -> Arch:
    """The model's shape from a config: flat (public checkpoints) or nested (transformers 4.52 on).

    What a config does not say is what transformers' class says: releases from 4.45 on save of
    `vision_config` and `text_config` only what differs from it.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(
            f"model_type {family!r} is not supported; supported: {', '.join(FAMILIES)} "
            "(Qwen2-VL and Qwen2.5-VL)"
        )
    whole, vision, text = _defaults(family)
    nested = config.get("text_config") or {}
    given = {**config, **nested}
    _refuse_what_differs(family, given, config)
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    arch = Arch(
        family=family,
        vision=_vision_arch(family, _Given({**vision, **(config.get("vision_config") or {})})),
        text=_text_arch(
            _Given({**text, **given}),
            tied=any(c.get("tie_word_embeddings") for c in (config, nested)),
        ),
        **{name: _Given({**whole, **config})[name] for name in ids},
    )
    _check_shape(arch)
    return arch


class _Given(dict[str, Any]):
    """Fields of a config. UserError where one that is asked for by its name is null."""

    def __getitem__(self, name: str) -> Any:
        if (value := super().__getitem__(name)) is None:
            raise UserError(
                f"config.json: {name} is null, and a model is made of it; expected a value, or no "
                "such line where transformers' own default is meant"
            )
        return value


@functools.cache
def _defaults(family: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Of transformers' config class: its fields, its tower's and its text model's. How positions
    turn is left out: releases have it under several names, see `_rope`."""
    from transformers import AutoConfig

    whole = AutoConfig.for_model(family)
    turns = ("rope_parameters", "rope_scaling", "rope_theta")

    def fields(config: Any) -> dict[str, Any]:
        return {name: value for name, value in config.to_dict().items() if name not in turns}

    return fields(whole), fields(whole.vision_config), fields(whole.text_config)


def _check_shape(arch: Arch) -> None:
    """UserError where the parts cannot be put together."""
    vision, text = arch.vision, arch.text
    found = {
        "text: hidden_size / num_attention_heads": (text.dim, text.heads),
        "text: num_attention_heads / num_key_value_heads": (text.heads, text.kv_heads),
        "vision: width / num_heads": (vision.dim, vision.heads),
    }
    for name, (size, parts) in found.items():
        if parts < 1 or size % parts:
            raise UserError(f"config.json: {name} is {size} / {parts}, which does not divide")
    if vision.out_dim != text.dim:
        raise UserError(
            f"config.json: the tower gives {vision.out_dim} values a token and the text "
            f"model takes {text.dim} (hidden_size)"
        )


def check_tokens(
    path: Path, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Any
) -> None:
    """UserError where a special token or one of the tokenizer's has no row in the embedding."""
    nested = config.get("text_config") or {}
    vocab = arch_from_config(config).text.vocab
    named = {
        f"{file}: {name}": id
        for file, holder in {
            "config.json": config,
            "config.json: text_config": nested,
            "generation_config.json": generation,
        }.items()
        for name, value in holder.items()
        if name.endswith("_token_id")
        for id in (value if isinstance(value, list) else [value])
        if id is not None
    }
    token, id = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    named[f"the tokenizer's last token {token!r}"] = id
    wrong = [
        f"{name} = {id!r:.80}"
        for name, id in named.items()
        if not isinstance(id, int) or not 0 <= id < vocab
    ]
    if wrong:
        raise UserError(
            f"{path}: the embedding has {vocab} rows (vocab_size), for ids 0 to {vocab - 1}, and "
            f"there is {'; '.join(wrong)}: take tokenizer and config of one checkpoint, or give "
            "the model more rows (transformers: model.resize_token_embeddings)"
        )


def check_images(path: Path, vision: VisionArch, image: ImageSettings) -> None:
    """UserError where the image processor cuts other patches than the tower takes."""
    takes = {
        "patch_size": vision.patch_size,
        "merge_size": vision.merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    wrong = [
        f"{name} = {getattr(image, name)}, the tower takes {size}"
        for name, size in takes.items()
        if getattr(image, name) != size
    ]
    if vision.in_channels != 3:
        wrong.append(f"red, green and blue, the tower takes in_channels = {vision.in_channels}")
    if wrong:
        raise UserError(
            f"{path}: the image processor's file (preprocessor_config.json or "
            f"processor_config.json) says {'; '.join(wrong)} (vision_config in config.json): take "
            "both files of one checkpoint"
        )


def _refuse_what_differs(family: str, text: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """UserError where a field asks for what neither family's public models do."""
    vision, rope = config.get("vision_config") or {}, _rope(text)
    supported = {
        "rope type": (rope.get("rope_type", rope.get("type", "default")), ("default", "mrope")),
        "text_config.model_type": (text.get("model_type"), (family, f"{family}_text")),
        "hidden_act": (text.get("hidden_act", "silu"), ("silu",)),
        "vision_config.hidden_act": (
            vision.get("hidden_act", FAMILIES[family]),
            (FAMILIES[family],),
        ),
        "use_sliding_window": (bool(text.get("use_sliding_window")), (False,)),
        "quantization_config": (config.get("quantization_config"), (None,)),
    }
    for name, (found, expected) in supported.items():
        if found not in expected:
            raise UserError(
                f"config.json: {name} {found!r} is not supported for {family}; supported: "
                + ", ".join(str(value).lower() for value in expected)
            )


def _rope(text: Mapping[str, Any]) -> Mapping[str, Any]:
    return text.get("rope_scaling") or text.get("rope_parameters") or {}


def _vision_arch(family: str, vision: _Given) -> VisionArch:
    depth = vision["depth"]
    if family == "qwen2_vl":
        sizes = {
            "dim": vision["embed_dim"],
            "hidden": int(vision["embed_dim"] * vision["mlp_ratio"]),
            "out_dim": vision["hidden_size"],
        }
        full = range(depth)
    else:
        sizes = {
            "dim": vision["hidden_size"],
            "hidden": vision["intermediate_size"],
            "out_dim": vision["out_hidden_size"],
        }
        full = vision["fullatt_block_indexes"]
    return VisionArch(
        **sizes,
        depth=depth,
        heads=vision["num_heads"],
        gated=family != "qwen2_vl",
        full_attention=tuple(block in full for block in range(depth)),
        patch_size=vision["patch_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        in_channels=vision["in_channels"],
        merge_size=vision["spatial_merge_size"],
        rope_theta=_rope(vision).get("rope_theta") or 10_000.0,
    )


def _text_arch(text: _Given, tied: bool) -> TextArch:
    rope = _rope(text)
    return TextArch(
        vocab=text["vocab_size"],
        dim=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
        hidden=text["intermediate_size"],
        rope_theta=float(rope.get("rope_theta") or text.get("rope_theta") or 1e6),
        mrope_section=tuple(rope.get("mrope_section") or (16, 24, 24)),
        norm_eps=text["rms_norm_eps"],
        tied=tied,
    )
