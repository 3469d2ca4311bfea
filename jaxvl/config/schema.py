# SPDX-License-Identifier: Apache-2.0
"""What a run is: frozen dataclasses, read from a Python file and changed with `a.b=c`.

A config file defines `config() -> Config`. It is Python, so it names functions and sources
directly; the command line sets plain values (numbers, words, tuples of them), which are parsed by
the field's annotation and never evaluated, and chooses among the rewards of jaxvl by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from jaxvl.config.grpo import GRPO
from jaxvl.config.overrides import function_name
from jaxvl.data.example import Source

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
    `remat` says what a layer keeps for the backward pass: its input ("block"), or the products of
    its weights too ("products": faster, for several times the memory). The limits on pixels hold
    for the whole run and are exported with the model.
    """

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    float32_head: bool = False  # logits by a float32 product whatever `dtype` is
    remat: Literal["block", "products"] = "block"
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

    Buckets that are "auto" are read from the first examples, and a larger one is made when a larger
    prompt comes. Else a prompt that does not fit the largest buckets ends the run, or is dropped as
    a row that cannot be used is: listed in `dropped.jsonl`, another example in its place; and so is
    a target that is longer than `sft.target_length`. Neither is ever cut. A run
    stops when more than the share `max_bad` of the source's rows cannot be used. `check` takes an
    example and says why it cannot be used ("" where it can). `digests` are files of `jaxvl data
    digest`: rows of these test sets are kept out, beside those that jaxvl knows.
    """

    source: Source
    template: Callable[..., Any]
    prompt_buckets: tuple[int, ...] | Literal["auto"] = (256, 512, 1024)
    patch_buckets: tuple[int, ...] | Literal["auto"] = (256, 1024, 2048)
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

    fn: Callable[..., Any] = dataclasses.field(metadata={"named": "jaxvl.rewards"})
    weight: float = 1.0
    name: str = ""  # "": the function's own name

    def __post_init__(self):
        if not self.name and callable(self.fn):
            object.__setattr__(self, "name", function_name(self.fn))


@dataclasses.dataclass(frozen=True)
class Verify:
    """The processes that compare mathematics for rewards: how many (0: one a processor, at most 8)
    and what a comparison may cost, in seconds of processor time and in GiB of memory."""

    workers: int = 0
    seconds: float = 0.8
    memory: float = 2.0


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn; top_p=1 and top_k=0 leave the distribution whole.

    `slots` completions, over all devices, are decoded at a time (0: all of a step); one that has
    ended makes room for one that waits. It bounds memory and changes no completion.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    slots: int = 0


@dataclasses.dataclass(frozen=True)
class Optim:
    """AdamW with a schedule over `horizon` updates, and clipping by global norm.

    The learning rate rises over the first `warmup_steps` updates to `lr`; below 1 they are a share
    of the horizon, and they are never more than it. Linear and cosine schedules reach `min_lr` at
    the horizon and stay there. It is that of the whole experiment: a run of fewer updates, to try
    it or to go on later, sees the beginning of the same schedule.

    A gradient norm above `grad_norm_warn` times its running median is told on the console, with the
    prompts that it is of (None: never).
    """

    lr: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    min_lr: float = 0.0
    warmup_steps: float = 0
    horizon: int | None = None  # None: all updates of the run
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0
    grad_norm_warn: float | None = 10.0

    def span(self, updates: int) -> tuple[int, int]:
        """Warm-up and horizon of a run of so many updates, in updates."""
        horizon = self.horizon or updates
        share = 0 < self.warmup_steps < 1
        steps = round(self.warmup_steps * horizon) if share else int(self.warmup_steps)
        return min(steps, horizon), horizon


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run writes, how long it is, and what it keeps.

    `trial` allows training on test sets (but for those whose licence forbids it), which marks the
    run, its page and its exports. `peak_tflops` is what a device can do at best, in 10^12 FLOP/s:
    the model FLOPs of a step are compared with it. A run ends when `max_skipped` updates in a row
    were not finite. With `compile_ahead` all programs that its steps may need are compiled before
    the first, so that what does not fit the memory shows; else each when a step first needs it.

    A directory that holds this run goes on from its newest whole checkpoint, or from that of
    `restore_step`; not so where `resume` is "never" (or false). Settings that differ are refused
    but for those that `allow` names. Where a save fails the run stops, or warns and goes on.
    """

    dir: str
    steps: int
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    rollout_images: int = 4  # images kept a step, for people
    resume: Literal["auto", "never", True, False] = "auto"
    restore_step: int | None = None
    allow: tuple[str, ...] = ()
    on_save_failure: Literal["stop", "warn"] = "stop"
    export: bool = True
    trial: bool = False
    max_skipped: int = 3
    compile_ahead: bool = False
    peak_tflops: float | None = None  # None: what is known of the device, if anything is


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps are traced for xprof or TensorBoard: "10:12" are the tenth to the twelfth, ""
    none. Process 0 writes the trace to `profile` in the run's directory."""

    steps: str = ""

    def span(self) -> range:
        """The numbers of the steps; ValueError where `steps` does not say them."""
        if not self.steps:
            return range(0)
        first, last = (int(number) for number in self.steps.split(":"))
        return range(first, last + 1)


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
class Benchmark:
    """A benchmark of `jaxvl eval list`, its files at `source`, asked by `protocol` ("": its own).

    About `limit` of its items are asked, always the same ones (0: all).
    """

    name: str
    source: str = ""
    protocol: str = ""
    limit: int = 200


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """Benchmarks answered greedily after every `every` steps and after the last.

    Their figures are metrics of the step: eval/<name>/accuracy (lenient), eval/<name>/strict,
    eval/<name>/<metric> and others. `best` names a metric of any kind: the model for which it was
    highest is kept in `best/`, beside the checkpoints. `max_new_tokens` 0 is each benchmark's own.
    """

    tasks: tuple[Benchmark, ...]
    every: int = 100
    best: str = ""
    max_new_tokens: int = 0
    batch: int = 32


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
    profile: Profile = Profile()
    eval: Eval | None = None
    benchmarks: Benchmarks | None = None


@dataclasses.dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: `rows` prompts a step, each followed by `target(example)`.

    The loss counts the target's tokens and the end token, together at most `target_length`: of a
    longer target `data.too_long` says what becomes. `logprob_chunk`: as of GRPO.
    """

    target: Callable[..., str]
    rows: int = 8
    micro_batches: int = 1
    target_length: int = 512
    logprob_chunk: int = 0


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """A supervised run."""

    model: Model
    data: Data
    sft: SFT
    run: Run
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    profile: Profile = Profile()
