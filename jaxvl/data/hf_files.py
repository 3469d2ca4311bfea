# SPDX-License-Identifier: Apache-2.0
"""What a processor reads of a checkpoint's files: tokenizer, chat template, ids, windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvl.data import template_probe
from jaxvl.data.image_settings import MAX_IMAGE_PIXELS, ImageSettings
from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError

_MOST_BYTES = 2**29  # of a tokenizer.json; Qwen2's has 7 MB
_SMALL = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_AGAIN = "copy the tokenizer's files from the published checkpoint"


def load_tokenizer(path: Path) -> Any:
    """A checkpoint directory's tokenizer; none of its files is run."""
    from transformers import AutoTokenizer

    whole, slow = path / "tokenizer.json", [path / "vocab.json", path / "merges.txt"]
    if not whole.is_file() and not all(file.is_file() for file in slow):
        raise UserError(
            f"{path} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt; "
            f"{_AGAIN} (tokenizer.json, tokenizer_config.json)"
        )
    for file in (whole, *slow):
        if file.is_file() and file.stat().st_size > _MOST_BYTES:
            raise UserError(
                f"{file} has {file.stat().st_size} bytes; expected at most {_MOST_BYTES}; {_AGAIN}"
            )
    for name in _SMALL:
        read_json(path / name)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a broken file: plain ones, or the panics of a Rust library
        why = f"{type(error).__name__}: {str(error)[:300]}"
        try:
            read_json(whole)
        except UserError as broken:  # where and why it is no JSON
            why = str(broken)
        raise UserError(f"cannot load the tokenizer in {path}: {why}; {_AGAIN}") from error


def token_id(path: Path, tokenizer: Any, config: Mapping[str, Any], key: str, token: str) -> int:
    """The id of a special token, which the tokenizer and config.json must agree on."""
    found = tokenizer.added_tokens_encoder.get(token)
    if found is None:
        raise UserError(
            f"the tokenizer in {path} has no {token}; expected one of the Qwen2-VL family"
        )
    if config.get(key, found) != found:
        raise UserError(
            f"{path / 'config.json'} says {key} = {config[key]}, its tokenizer has {token} as "
            f"{found}; one of the two is from another checkpoint"
        )
    return found


def window(path: Path, config: Mapping[str, Any], image: ImageSettings) -> int:
    """Side of the tower's attention windows in merged patches, from config.json; 0: none."""
    if config.get("model_type") != "qwen2_5_vl":
        return 0
    pixels = part(path, config, "vision_config").get("window_size")
    pixels = 112 if pixels is None else pixels
    least = image.patch_size * image.merge_size
    if not isinstance(pixels, int) or not least <= pixels < MAX_IMAGE_PIXELS:
        raise UserError(
            f"{path / 'config.json'}: vision_config.window_size is {pixels!r:.80}; expected a "
            f"whole number of at least {least} pixels, the side of a merged patch (patch_size "
            f"{image.patch_size} times merge_size {image.merge_size}, as the image processor says)"
        )
    return pixels // least


def part(path: Path, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A config inside of config.json, {} where there is none."""
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path / 'config.json'}: {name} is {found!r:.80}; expected an object")
    return found or {}


def said_ends(path: Path, config: Mapping[str, Any], generation: Mapping[str, Any]) -> list[int]:
    """All ids that end a text by a checkpoint's configs."""
    said = {
        "generation_config.json: eos_token_id": generation,
        "config.json: eos_token_id": config,
        "config.json: text_config.eos_token_id": part(path, config, "text_config"),
    }
    found: list[int] = []
    for name, holder in said.items():
        value = holder.get("eos_token_id")
        ids = value if isinstance(value, list) else [value] if value is not None else []
        if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
            raise UserError(
                f"{path}/{name} is {value!r:.80}; expected the number of a token, or a list of them"
            )
        found += ids
    return found


def chat_template(path: Path, tokenizer: Any) -> str | None:
    """The chat template that transformers' processor would take: processor_config.json's, else
    chat_template.json's, else the tokenizer's; tried, see `template_probe`."""
    names = ("processor_config.json", "chat_template.json")
    found = [read_json(path / name).get("chat_template") for name in names]
    template = next((one for one in found if one is not None), tokenizer.chat_template)
    if isinstance(template, dict):
        template = template.get("default")
    if template is not None:
        template_probe.check(path, template)
    return template
