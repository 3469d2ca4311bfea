# SPDX-License-Identifier: Apache-2.0
"""What a run is: frozen dataclasses, read from a Python file and changed with `a.b=c`.

A config file defines `config() -> Config`. It is Python, so it names functions and sources
directly; the command line can only set plain values (numbers, words, tuples of them), which are
parsed by the field's annotation and never evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jaxvl.data.example import Source
from jaxvl.errors import UserError
from jaxvl.fields import check_types, set_field

Part = Literal["tower", "merger", "text"]
Projection = Literal["q", "k", "v", "o", "gate", "up", "down", "fc1", "fc2"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank adapters, x w + (alpha / rank) x a b, beside those of `targets` that `parts` have.

    `dropout` is of x, in updates alone.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[Projection, ...] = get_args(Projection)
    parts: tuple[Part, ...] = ("text",)


@dataclasses.dataclass(frozen=True)
class Model:
    """The policy: a Hugging Face checkpoint. `dtype` is the compute dtype.

    The parts in `train` train, with float32 masters; the others are frozen and held in `dtype`.
    The limits on pixels hold for the whole run and are exported with the model.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    float32_head: bool = False  # logits by a float32 product whatever `dtype` is
    remat: bool = True
    min_pixels: int | None = None  # None: what the checkpoint's processor says
    max_pixels: int | None = None
    train: tuple[Part, ...] = get_args(Part)
    lora: LoRA | None = None  # adapters that train beside frozen parts


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 on at most one axis means all that remain."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Data:
    """Where prompts come from; a row is padded up to the nearest bucket of tokens and patches.

    A prompt that does not fit the largest buckets ends the run, or is dropped as a row that cannot
    be used is: listed in `dropped.jsonl`, another example in its place. It is never cut. A run
    stops when more than the share `max_bad` of the source's rows cannot be used. `check` takes an
    example and says why it cannot be used ("" where it can). `digests` are files of `jaxvl data
    digest`: rows of these test sets are kept out, beside those that jaxvl knows.
    """

    source: Source
    template: Callable[..., Any]
    prompt_buckets: tuple[int, ...] = (256, 512, 1024)
    patch_buckets: tuple[int, ...] = (256, 1024, 2048)
    too_long: Literal["error", "drop"] = "error"
    min_pixels: int | None = None  # of this dataset alone; None: the model's
    max_pixels: int | None = None
    shuffle: bool = True
    workers: int = 2
    max_bad: float = 0.05
    check: Callable[..., Any] | None = None
    digests: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward function with TRL's signature, its weight in the sum and its name in the logs."""

    fn: Callable[..., Any]
    weight: float = 1.0
    name: str = ""  # "": the function's own name

    def __post_init__(self):
        if not self.name:
            fn = self.fn.func if isinstance(self.fn, functools.partial) else self.fn
            object.__setattr__(self, "name", getattr(fn, "__name__", type(fn).__name__))


@dataclasses.dataclass(frozen=True)
class Verify:
    """The processes that compare mathematics for rewards: how many (0: one a processor, at most 8)
    and what a comparison may cost, in seconds of processor time and in GiB of memory."""

    workers: int = 0
    seconds: float = 0.8
    memory: float = 2.0


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn; top_p=1 and top_k=0 leave the distribution whole."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclasses.dataclass(frozen=True)
class GRPO:
    """The algorithm. A step takes `prompts` prompts with `group` completions each.

    `group_per_row` completions share one row with their prompt (0: the whole group); it divides
    `group`. `epsilon_high` None means `epsilon`.
    """

    prompts: int = 8
    group: int = 8
    group_per_row: int = 0
    micro_batches: int = 1
    num_iterations: int = 1
    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.04
    logprob_chunk: int = 256

    @property
    def rows(self) -> int:
        """Rows of a step's batch: prompts * group / group_per_row."""
        return self.prompts * (self.group // (self.group_per_row or self.group))


@dataclasses.dataclass(frozen=True)
class Optim:
    """AdamW with a schedule over run.steps and clipping by global norm."""

    lr: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run writes, how long it is, and what it keeps.

    `trial` allows training on test sets (but for those whose licence forbids it), which marks the
    run, its page and its exports.
    """

    dir: str
    steps: int
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    rollout_images: int = 4  # images kept a step, for people
    resume: bool = False
    export: bool = True
    trial: bool = False


@dataclasses.dataclass(frozen=True)
class Eval:
    """A held-out set, answered before the first and after the last step, and every `every` steps.

    Each question gets one greedy answer and `samples` drawn at temperature 1.
    """

    source: Source
    samples: int = 4
    every: int = 0
    seed: int = 0
    min_pixels: int | None = None  # of this dataset alone; None: the model's
    max_pixels: int | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """A GRPO run."""

    model: Model
    data: Data
    rewards: tuple[Reward, ...]
    run: Run
    verify: Verify = Verify()
    sampling: Sampling = Sampling()
    grpo: GRPO = GRPO()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    eval: Eval | None = None


@dataclasses.dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: `rows` prompts a step, each followed by `target(example)`.

    The loss counts the target's tokens and the end token. A target that is longer than
    `target_length` tokens is an error.
    """

    target: Callable[..., str]
    rows: int = 8
    micro_batches: int = 1
    target_length: int = 512
    logprob_chunk: int = 256


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """A supervised run."""

    model: Model
    data: Data
    sft: SFT
    run: Run
    optim: Optim = Optim()
    mesh: Mesh = Mesh()


def load(
    path: str | Path, overrides: Sequence[str] = (), kind: type = Config
) -> Config | SFTConfig:
    """The config that the file at `path` returns, with `a.b=c` overrides applied, validated.

    `kind` is the class it must be of.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config file at {path}; give the path of a Python file")
    # Registered in sys.modules because dataclasses resolve their annotations through it.
    name = f"jaxvl_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"{path} is not a Python file; a config is a .py that defines config()")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "config", None)):
        raise UserError(f"{path} defines no function config(); it should return a jaxvl Config")
    cfg = module.config()
    if not isinstance(cfg, kind):
        found = f"config() in {path} returned a {type(cfg).__name__}"
        raise UserError(f"{found}, expected a {kind.__name__}")
    for override in overrides:
        cfg = set_field(cfg, override)
    validate(cfg)
    return cfg


def validate(cfg: Config | SFTConfig) -> None:
    """Raise UserError for a field of the wrong type or range, and for fields that disagree."""
    check_types(cfg)
    _check_ranges(cfg)
    _check_sizes(cfg)
    _check_parts(cfg.model)
    if cfg.optim.warmup_steps > cfg.run.steps:
        raise UserError(
            f"optim.warmup_steps = {cfg.optim.warmup_steps} is above run.steps = {cfg.run.steps}"
        )
    if isinstance(cfg, Config):
        _check_grpo(cfg)
    mesh = (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    if mesh.count(-1) > 1 or any(size < 1 and size != -1 for size in mesh):
        raise UserError(
            f"mesh (data, fsdp, tensor) = {mesh}: sizes are positive, and at most one is -1"
        )
    if -1 not in mesh[:2]:
        check_rows(cfg.grpo if isinstance(cfg, Config) else cfg.sft, mesh[0] * mesh[1])


def _check_sizes(cfg: Config | SFTConfig) -> None:
    for name in ("prompt_buckets", "patch_buckets"):
        buckets = getattr(cfg.data, name)
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UserError(f"data.{name} = {buckets}: expected sizes that grow, as (256, 512)")
    patches = cfg.data.patch_buckets
    if any(size % 4 for size in patches):
        raise UserError(
            f"data.patch_buckets = {patches}: patches are merged by 2x2, use multiples of 4"
        )
    for name in ("model", "data", "eval"):
        part = getattr(cfg, name, None)
        low, high = getattr(part, "min_pixels", None), getattr(part, "max_pixels", None)
        if None not in (low, high) and low > high:
            raise UserError(f"{name}.min_pixels = {low} is above {name}.max_pixels = {high}")


def _check_parts(m: Model) -> None:
    if not m.train and m.lora is None:
        raise UserError("model.train is empty and model.lora is none: nothing would be trained")
    for part in set(m.train) & set(m.lora.parts if m.lora else ()):
        raise UserError(
            f"{part} is in model.train and in model.lora.parts: either its own weights train or "
            "adapters beside them; take it out of one"
        )


def _check_grpo(cfg: Config) -> None:
    g = cfg.grpo
    if g.group_per_row and g.group % g.group_per_row:
        raise UserError(
            f"grpo.group_per_row = {g.group_per_row} does not divide grpo.group = {g.group}; "
            f"the nearest that does is {_nearest_divisor(g.group, g.group_per_row)}"
        )
    names = [reward.name for reward in cfg.rewards]
    if not names or len(set(names)) < len(names):
        raise UserError(f"rewards are {names}: expected at least one, each with a name of its own")
    for reward in cfg.rewards:
        if not math.isfinite(reward.weight):
            raise UserError(f"rewards: the weight of {reward.name} is {reward.weight}")


def check_rows(batch: GRPO | SFT, shards: int) -> None:
    """Raise UserError unless every micro batch splits evenly over `shards` = data * fsdp devices.

    Called by `validate` where the mesh is written out, and again once a -1 is known.
    """
    parts = shards * batch.micro_batches
    if batch.rows % parts == 0:
        return
    if isinstance(batch, SFT):
        raise UserError(
            f"sft.rows = {batch.rows} is not a multiple of {parts} = mesh.data * mesh.fsdp "
            f"({shards}) * sft.micro_batches ({batch.micro_batches}); "
            f"try sft.rows={-(-batch.rows // parts) * parts}"
        )
    grpo = batch
    per_row = grpo.group_per_row or grpo.group
    fitting = [
        size
        for size in range(1, grpo.group + 1)
        if grpo.group % size == 0 and grpo.prompts * grpo.group // size % parts == 0
    ]
    step = parts // math.gcd(parts, grpo.group // per_row)
    cures = [f"grpo.prompts={-(-grpo.prompts // step) * step}"]
    if fitting:
        cures.append(f"grpo.group_per_row={min(fitting, key=lambda size: abs(size - per_row))}")
    raise UserError(
        f"a step has {grpo.rows} rows ({grpo.prompts} prompts, groups of {grpo.group} in rows of "
        f"{per_row}), not a multiple of {parts} = mesh.data * mesh.fsdp ({shards}) * "
        f"grpo.micro_batches ({grpo.micro_batches}); try {' or '.join(cures)}"
    )


# Smallest and largest value of a field, both allowed but for the fields in _ABOVE and _BELOW.
_RANGES = {
    "data.min_pixels": (1, None),
    "data.max_pixels": (1, None),
    "data.workers": (0, None),
    "data.max_bad": (0, 1),
    "eval.samples": (1, None),
    "eval.every": (0, None),
    "eval.seed": (0, 2**31 - 1),
    "eval.min_pixels": (1, None),
    "eval.max_pixels": (1, None),
    "grpo.prompts": (1, None),
    "grpo.group": (2, None),  # one completion has no advantage over its group
    "grpo.group_per_row": (0, None),
    "grpo.micro_batches": (1, None),
    "grpo.num_iterations": (1, None),
    "grpo.logprob_chunk": (1, None),
    "grpo.epsilon": (0, 1),
    "grpo.epsilon_high": (0, None),
    "grpo.beta": (0, None),
    "model.lora.alpha": (0, None),
    "model.lora.dropout": (0, 1),
    "model.lora.rank": (1, None),
    "model.min_pixels": (1, None),
    "model.max_pixels": (1, None),
    "optim.lr": (0, None),
    "optim.warmup_steps": (0, None),
    "optim.weight_decay": (0, None),
    "optim.b1": (0, 1),
    "optim.b2": (0, 1),
    "optim.eps": (0, None),
    "optim.clip_norm": (0, None),
    "sft.rows": (1, None),
    "sft.micro_batches": (1, None),
    "sft.target_length": (1, None),
    "sft.logprob_chunk": (1, None),
    "run.steps": (1, None),
    "run.seed": (0, 2**31 - 1),
    "run.save_every": (1, None),
    "run.keep": (1, None),
    "run.rollout_images": (0, None),
    "verify.workers": (0, 64),
    "verify.seconds": (0, 60),
    "verify.memory": (0.5, 64),
    "sampling.max_new_tokens": (1, None),
    "sampling.temperature": (0, None),
    "sampling.top_p": (0, 1),
    "sampling.top_k": (0, None),
}
_ABOVE = {"model.lora.alpha", "optim.eps", "optim.clip_norm"}
_ABOVE |= {"sampling.temperature", "sampling.top_p", "verify.seconds"}
_BELOW = {"model.lora.dropout", "optim.b1", "optim.b2"}


def _lookup(cfg: Config | SFTConfig, path: str) -> Any:
    """The field at a dotted path, None where there is no such part in this config."""
    return functools.reduce(lambda node, name: getattr(node, name, None), path.split("."), cfg)


def _check_ranges(cfg: Config | SFTConfig) -> None:
    for path, (low, high) in _RANGES.items():
        value = _lookup(cfg, path)
        if value is None:
            continue
        above = value > low if path in _ABOVE else value >= low
        below = high is None or (value < high if path in _BELOW else value <= high)
        if not (above and below and math.isfinite(value)):
            low_text = f"{'above' if path in _ABOVE else 'at least'} {low}"
            high_text = f" and {'below' if path in _BELOW else 'at most'} {high}"
            expected = low_text + (high_text if high is not None else "")
            raise UserError(f"{path} = {value}: expected a number {expected}")


def _nearest_divisor(number: int, near: int) -> int:
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    return min(divisors, key=lambda size: abs(size - near))
