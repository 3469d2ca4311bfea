# SPDX-License-Identifier: Apache-2.0
"""What a run is: frozen dataclasses, read from a Python file and changed with `a.b=c`.

A config file defines `config() -> Config`. It is Python, so it names functions and sources
directly; the command line sets plain values (numbers, words, tuples of them), which are parsed by
the field's annotation and never evaluated, and chooses among the rewards of jaxvl by name.

A field's annotation says its type and range (`jaxvl.config.ranges`), the line below it what it is:
`jaxvl.config.fields` checks and describes fields by these, `jaxvl.config.validate` those that must
agree with others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

from jaxvl.config.batch import BatchShape
from jaxvl.config.grpo import GRPO
from jaxvl.config.model import LoRA, Mesh, Model, Optim, Part, Projection  # noqa: F401 (were here)
from jaxvl.config.overrides import function_name
from jaxvl.config.ranges import ANY
from jaxvl.data.example import Source


@dataclasses.dataclass(frozen=True)
class Data:
    """Where prompts come from; a row is padded up to the nearest bucket of tokens and patches.

    Buckets that are "auto" are read from the first examples, and a larger one is made when a larger
    prompt comes. Else a prompt that does not fit the largest buckets ends the run, or is dropped as
    a row that cannot be used is: listed in `dropped.jsonl`, another example in its place; and so is
    a target that is longer than `sft.target_length`. Neither is ever cut.
    """

    source: Source
    """The dataset."""
    template: Callable[..., Any] = dataclasses.field(metadata={"named": "jaxvl.data.templates"})
    """Makes an example's prompt: text or chat messages. One of jaxvl's by name."""
    prompt_buckets: tuple[Annotated[int, Ge(1)], ...] | Literal["auto"] = (256, 512, 1024)
    """Lengths of prompts, in tokens."""
    patch_buckets: tuple[Annotated[int, Ge(4)], ...] | Literal["auto"] = (256, 1024, 2048)
    """Sizes of a prompt's images, in patches: multiples of 4."""
    too_long: Literal["error", "drop"] = "error"
    """What becomes of a prompt or target that does not fit."""
    min_pixels: Annotated[int, Ge(1)] | None = None
    """Of this dataset alone (none: model.min_pixels)."""
    max_pixels: Annotated[int, Ge(1)] | None = None
    """Of this dataset alone (none: model.max_pixels)."""
    shuffle: bool = True
    """Examples come in another order in every epoch."""
    workers: Annotated[int, Ge(0)] = 2
    """Threads that read."""
    max_bad: Annotated[float, Interval(ge=0, le=1)] = 0.05
    """A run stops when more than this share of the rows cannot be used."""
    check: Callable[..., Any] | None = None
    """Takes an example and says why it cannot be used ("" where it can)."""
    digests: tuple[str, ...] = ()
    """Files of `jaxvl data digest`: rows of these test sets are kept out, beside those that jaxvl
    knows."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward function with TRL's signature."""

    fn: Callable[..., Any] = dataclasses.field(metadata={"named": "jaxvl.rewards"})
    """The function, or one of jaxvl's by name."""
    weight: Annotated[float, ANY] = 1.0
    """Its weight in the sum; below 0 it is a cost."""
    name: str = ""
    """Its name in the logs ("": the function's own name)."""

    def __post_init__(self):
        if not self.name and callable(self.fn):
            object.__setattr__(self, "name", function_name(self.fn))


@dataclasses.dataclass(frozen=True)
class Verify:
    """The processes that compare mathematics for rewards, and what a comparison may cost."""

    workers: Annotated[int, Interval(ge=0, le=64)] = 0
    """How many (0: one a processor, at most 8)."""
    seconds: Annotated[float, Interval(gt=0, le=60)] = 0.8
    """Of processor time."""
    memory: Annotated[float, Interval(ge=0.5, le=64)] = 2.0
    """In GiB."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn; top_p=1 and top_k=0 leave the distribution whole."""

    max_new_tokens: Annotated[int, Ge(1)] = 256
    """Tokens that a completion may have, the end token among them."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Logits are divided by it, in sampling and learning."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Draws among the most likely tokens that together have this share (1: among all)."""
    top_k: Annotated[int, Ge(0)] = 0
    """Draws among so many most likely tokens (0: among all)."""
    slots: Annotated[int, Ge(0)] = 0
    """Completions, over all devices, that are decoded at a time; one that has ended makes room for
    one that waits. It bounds memory and changes no completion (0: all of a step)."""
    ban: tuple[str, ...] = ()
    """Texts that no completion of training has, in any case of ASCII letters, however they are cut
    into tokens and also inside of words. As top_k, it restricts the choice and not the measure."""
    tensor: Annotated[int, Ge(1)] | None = None
    """Devices that share the weights while completions are decoded, a multiple of mesh.tensor: the
    parameters are moved once a rollout. It changes speed and memory (none: mesh.tensor)."""
    weights: Literal["int8"] | None = None
    """How the decoder's layers are multiplied while completions are decoded: int8 halves what a
    token reads of them, draws from a policy that is a little off, and so needs
    grpo.importance_sampling_cap (none: in model.dtype, as the learner does)."""
    cache: Literal["int8"] | None = None
    """How keys and values of prompts and completions are held while completions are decoded: int8
    halves them, and needs grpo.importance_sampling_cap for the same reason (none: in
    model.dtype)."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run writes, how long it is, and what it keeps.

    A directory that holds this run goes on from its newest whole checkpoint, or from that of
    `restore_step`; not so where `resume` is "never" (or false). Settings that differ are refused
    but for those that `allow` names.
    """

    dir: str
    """The run's directory."""
    steps: Annotated[int, Ge(0)] = 0
    """Steps of the whole run (0: as many as run.epochs take)."""
    epochs: Annotated[float, Gt(0)] | None = None
    """How often the data is gone through where run.steps is 0: rounded up to whole steps."""
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Of the order of examples, of draws, of adapters and of their dropout."""
    save_every: Annotated[int, Ge(1)] = 100
    """Steps between checkpoints; one is written after the last step too."""
    keep: Annotated[int, Ge(1)] = 2
    """Newest checkpoints that are kept."""
    keep_every: Annotated[int, Ge(1)] | None = None
    """Those of every so many steps are kept as well, for curves; a multiple of run.save_every."""
    rollout_images: Annotated[int, Ge(0)] = 4
    """Prompts of a step whose images are kept, for people."""
    report_every: Annotated[int, Ge(0)] = 20
    """Steps between two writings of the page report.html, and between tables of completions that
    `track` gets (0: the page is written at the end alone, and there are no tables). The page of a
    long run is written once a twentieth of its steps is new."""
    track: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Trackers that are told of every step, beside metrics.jsonl: see docs/metrics.md."""
    resume: Literal["auto", "never", True, False] = "auto"
    """Whether a directory that holds this run goes on."""
    restore_step: Annotated[int, Ge(1)] | None = None
    """The checkpoint to go on from (none: the newest)."""
    allow: tuple[str, ...] = ()
    """Settings that may differ from those that the run was begun with."""
    on_save_failure: Literal["stop", "warn"] = "stop"
    """Where a save fails the run stops, or warns and goes on."""
    save_timeout: Annotated[float, Gt(0)] = 1800.0
    """Seconds after which a save is taken for one that never ends."""
    export: bool = True
    """Writes the trained model to hf/ at the end."""
    trial: bool = False
    """Allows training on test sets (but for those whose licence forbids it), which marks the run,
    its page and its exports."""
    max_skipped: Annotated[int, Ge(1)] = 3
    """A run ends when so many updates in a row were not finite."""
    compile_ahead: bool = False
    """All programs are compiled before the first step, so that what does not fit the memory shows;
    else each when a step first needs it, and always so in a supervised run."""
    peak_tflops: Annotated[float, Gt(0)] | None = None
    """What a device can do at best, in 10^12 FLOP/s, which the model FLOPs of a step are compared
    with (none: what is known of the device, if anything is)."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps are traced for xprof or TensorBoard. Process 0 writes the trace to `profile` in
    the run's directory."""

    steps: str = ""
    """First and last: "10:12" are the tenth to the twelfth ("": none)."""

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
    """The dataset."""
    samples: Annotated[int, Ge(1)] = 4
    """Answers drawn to a question."""
    every: Annotated[int, Ge(0)] = 0
    """Steps between answers (0: before the first and after the last alone)."""
    seed: Annotated[int, Interval(ge=0, le=2**31 - 1)] = 0
    """Of the draws."""
    min_pixels: Annotated[int, Ge(1)] | None = None
    """Of this dataset alone (none: model.min_pixels)."""
    max_pixels: Annotated[int, Ge(1)] | None = None
    """Of this dataset alone (none: model.max_pixels)."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark of `jaxvl eval list`."""

    name: str
    """As the list has it."""
    source: str = ""
    """Where its files are ("": as the list says)."""
    protocol: str = ""
    """How it is asked ("": as is its own)."""
    limit: Annotated[int, Ge(0)] = 200
    """About how many of its items are asked, always the same ones (0: all)."""


@dataclasses.dataclass(frozen=True)
class Benchmarks:
    """Benchmarks answered greedily after every `every` steps and after the last.

    Their figures are metrics of the step: eval/<name>/accuracy (lenient), eval/<name>/strict,
    eval/<name>/<metric> and others.
    """

    tasks: tuple[Benchmark, ...]
    """The benchmarks."""
    every: Annotated[int, Ge(1)] = 100
    """Steps between answers."""
    best: str = ""
    """A metric of any kind: the model for which it was highest is kept in best/, beside the
    checkpoints ("": none is); for which it was lowest where a minus stands before the name."""
    max_new_tokens: Annotated[int, Ge(0)] = 0
    """Tokens that an answer may have (0: each benchmark's own)."""
    batch: Annotated[int, Ge(1)] = 32
    """Items that are answered at a time."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A GRPO run."""

    model: Model
    data: Data
    rewards: tuple[Reward, ...]
    """Reward functions, whose weighted sum is learnt from."""
    run: Run
    verify: Verify = Verify()
    sampling: Sampling = Sampling()
    grpo: GRPO = GRPO()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    profile: Profile = Profile()
    eval: Eval | None = None
    """A held-out set."""
    benchmarks: Benchmarks | None = None
    """Benchmarks on the way."""
    sft: ClassVar[None] = None  # fine-tuning is not a part of it

    @property
    def batch(self) -> BatchShape:
        """What a step's batch is."""
        grpo = self.grpo
        return BatchShape(
            prompts=grpo.prompts,
            group=grpo.group,
            per_row=grpo.group_per_row or grpo.group,
            length=self.sampling.max_new_tokens,
            mini_batches=grpo.mini_batches,
            micro_batches=grpo.micro_batches,
            updates=grpo.updates,
            logprob_chunk=grpo.logprob_chunk,
            whole_rows=None,
            part="grpo",
            prompts_field="grpo.prompts",
            row_field="grpo.group_per_row",
        )


@dataclasses.dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: `rows` prompts a step, each followed by `target(example)` and the
    token with which the chat template ends a reply. The loss is a mean over all tokens of a step
    that count."""

    target: Callable[..., str]
    """Makes an example's target."""
    rows: Annotated[int, Ge(1)] = 8
    """Prompts of a step."""
    micro_batches: Annotated[int, Ge(1)] = 1
    """Parts of its rows that an update goes through; it changes memory."""
    target_length: Annotated[int, Ge(1)] = 512
    """Tokens that a target may have, the end token among them; of a longer one data.too_long says
    what becomes."""
    logprob_chunk: Annotated[int, Ge(0)] = 0
    """As of grpo.logprob_chunk."""
    loss: Literal["answer", "turn", "all"] = "answer"
    """What counts: the target and its end; the whole turn of the assistant, as the chat template
    writes it; or every token of prompt and target but images' and padding's."""
    spike_warn: Annotated[float, Gt(1)] | None = 2.0
    """A loss above so many times its running median is told on the console, with the prompts that
    it is of (none: never)."""
    pack: bool = False
    """Short examples share rows, which are as long as the largest prompt bucket and a target. It
    changes speed and, but for the order of sums, no loss."""

    @property
    def whole_rows(self) -> bool:
        """Whether rows hold prompts and targets as one text (`jaxvl.data.packing`)."""
        return self.pack or self.loss != "answer"


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
    eval: Eval | None = None
    """A held-out set."""
    benchmarks: Benchmarks | None = None
    """Benchmarks on the way."""
    rewards: tuple[Reward, ...] = ()
    """Reward functions that answers to `eval` are scored by; nothing is learnt from them."""
    sampling: Sampling = Sampling()
    """sampling.max_new_tokens is that of the answers to `eval`; the rest is not read."""
    verify: Verify = Verify()
    grpo: ClassVar[None] = None  # it is no run of reinforcement learning

    @property
    def batch(self) -> BatchShape:
        """What a step's batch is: a target is the one completion of its prompt."""
        sft = self.sft
        return BatchShape(
            prompts=sft.rows,
            group=1,
            per_row=1,
            length=sft.target_length,
            mini_batches=1,
            micro_batches=sft.micro_batches,
            updates=1,
            logprob_chunk=sft.logprob_chunk,
            whole_rows=sft.loss if sft.whole_rows else None,
            part="sft",
            prompts_field="sft.rows",
            row_field="sft.target_length",
        )
