# SPDX-License-Identifier: Apache-2.0
"""Where the files of a checkpoint are: a directory, the export of a run, the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from jaxvl import arguments
from jaxvl.data.strict_json import read_json
from jaxvl.errors import UserError

EXPORT = "hf"  # of a run's directory: the model that it has made


def is_hub_id(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name))


def checkpoint_dir(path_or_hub_id: str | Path) -> Path:
    """A local directory as it is, of a run its export; anything else is a hub id and is fetched
    into the cache."""
    path = Path(arguments.model(path_or_hub_id)).expanduser()
    if is_run(path):
        return _export(path)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise UserError(
                f"{path} holds adapters alone; give a whole model: the run's {EXPORT}/ has them in "
                "its weights, as has what PEFT's merge_and_unload saves"
            )
        return path
    if path.is_file():
        raise UserError(f"{path} is a file; expected the directory of a checkpoint or of a run")
    if path.exists() or not is_hub_id(str(path_or_hub_id)):
        raise UserError(
            f"{path_or_hub_id}: neither a directory nor a hub id such as Qwen/Qwen2-VL-2B-Instruct"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.txt"]  # of .bin files the index alone
    try:
        return Path(snapshot_download(str(path_or_hub_id), allow_patterns=wanted))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{path_or_hub_id}: no such directory, and it could not be fetched from the hub "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run, rather than a Hugging Face checkpoint."""
    if not path.is_dir():
        return False
    try:
        config = read_json(path / "config.json")
    except UserError:  # it is told by who reads it
        return False
    if "model_type" in config:
        return False
    return (path / "checkpoints").is_dir() or {"model", "run"} <= config.keys()


def _export(run: Path) -> Path:
    if not (run / EXPORT / "config.json").is_file():
        raise UserError(
            f"{run} is the directory of a run, and has no export yet ({run / EXPORT}): give one of "
            f"its steps ({run}/checkpoints/STEP), or write one as a model: jaxvl convert {run} OUT"
        )
    return run / EXPORT
