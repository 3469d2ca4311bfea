# SPDX-License-Identifier: Apache-2.0
"""A run's settings beside those it was begun with: what differs, and whether that matters."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvl import __version__
from jaxvl.config import Config, SFTConfig
from jaxvl.config.fields import to_json
from jaxvl.data.files import replace
from jaxvl.errors import UserError

FILE, HISTORY = "config.json", "config_history.jsonl"
# What changes nothing that is computed, or only in which order floats are summed. A name covers
# what is below it.
FREE = (
    "run.dir run.steps run.epochs run.save_every run.keep run.keep_every "
    "run.rollout_images run.report_every run.track run.export run.peak_tflops "
    "run.on_save_failure run.save_timeout eval benchmarks profile verify data.workers "
    "data.max_bad mesh model.remat grpo.micro_batches grpo.group_per_row grpo.logprob_chunk "
    "sft.micro_batches sft.logprob_chunk sft.pack sampling.slots sampling.tensor run.max_skipped "
    "run.compile_ahead optim.grad_norm_warn sft.spike_warn"
).split()
_GROUPS = ("model", "data", "run")  # that every run's config.json has
_HOW = ("run.resume", "run.allow", "run.restore_step")  # of this start alone: not worth a word


def check(cfg: Config | SFTConfig) -> list[str]:
    """What differs from the settings that the run in `run.dir` was begun with and is let through,
    a line each.

    Raises UserError for what is neither free nor in `run.allow`.
    """
    old = read(Path(cfg.run.dir))
    if old is None:
        return []
    if ("sft" in old) != (cfg.sft is not None):
        kinds = ("of reinforcement learning", "supervised")
        raise UserError(
            f"{cfg.run.dir} holds a run that is {kinds['sft' in old]}, and this one is "
            f"{kinds[cfg.sft is not None]}: choose another run.dir"
        )
    told, refused = [], []
    for name, before, now in differences(old, comparable(cfg)):
        line = f"{name}: {_shown(before)}, now {_shown(now)}"
        if name == "run.steps" and cfg.optim.schedule != "constant":
            line += " (the schedule of optim.lr is over the new number)"
        if _below(name, _HOW):
            continue
        if _below(name, FREE) or _below(name, cfg.run.allow):
            told.append(line)
        else:
            refused.append((name, line))
    if refused:
        lines = "".join(f"\n  {line}" for _, line in refused)
        allow = ",".join(name for name, _ in refused)
        raise UserError(
            f"{cfg.run.dir} holds a run with other settings:{lines}\nset them back, choose another "
            f"run.dir, or go on all the same with run.allow={allow}"
        )
    return told


def comparable(cfg: Config | SFTConfig) -> Any:
    """The settings as config.json holds them."""
    return json.loads(json.dumps(to_json(cfg)))


def read(run_dir: Path) -> dict[str, Any] | None:
    """config.json of a run, None where there is none."""
    file = run_dir / FILE
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, expected an object")
        if lacking := [name for name in _GROUPS if not isinstance(found.get(name), dict)]:
            raise ValueError(f"it says nothing of {' and '.join(lacking)}, as a run's does")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is broken ({error}): the settings of the run cannot be compared; take the "
            f"newest of {HISTORY} instead, or move the file away to go on without comparing"
        ) from None
    return found


def write(cfg: Config | SFTConfig, step: int) -> None:
    """config.json, and a line in its history where the settings are new."""
    run_dir = Path(cfg.run.dir)
    old, new = read(run_dir), comparable(cfg)
    if old != new or not (run_dir / HISTORY).exists():
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "after_step": step}
        line |= {"jaxvl": __version__, "config": new}
        history = run_dir / HISTORY
        before = history.read_bytes() if history.exists() else b""
        replace(history, before + json.dumps(line).encode() + b"\n")
    replace(run_dir / FILE, json.dumps(new, indent=2).encode() + b"\n")


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old, new) of what is not the same. A field that only one side knows is not
    counted: it is another version's."""
    prefix = f"{name}." if name else ""
    if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
        for key in sorted(old.keys() & new.keys()):
            yield from differences(old[key], new[key], prefix + key)
    elif _objects(old) and _objects(new) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{prefix}{number}")
    elif _plain(old) != _plain(new):
        yield name, old, new


def _objects(value: Any) -> bool:
    """Whether it is a list of parts with fields of their own."""
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _plain(value: Any) -> Any:
    """Without the addresses that the text of an object may hold."""
    return re.sub(r" at 0x\w+", "", value) if isinstance(value, str) else value


def _below(name: str, names: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{one.strip()}.") for one in names)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
