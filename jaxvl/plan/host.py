# SPDX-License-Identifier: Apache-2.0
"""`jaxvl plan --host`: what a step costs this machine beside its devices, measured on a few made-up
rows of the config's sizes and scaled up. Neither the config's data nor its weights are read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxvl.checkpoints.start import locate
from jaxvl.config import Config, Reward, SFTConfig
from jaxvl.data import made_up, packing, templates
from jaxvl.data import prompts as data_prompts
from jaxvl.data.example import Example
from jaxvl.data.image import pixel_patches
from jaxvl.data.image_settings import ImageSettings
from jaxvl.data.intake import ExampleFilter
from jaxvl.data.prompts import BOX_FRAMES, Encoded, Processor
from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.models.arch import Arch
from jaxvl.plan.estimate import shard_bytes
from jaxvl.plan.programs import Sizes, read_arch, train_batch
from jaxvl.rewards import Mixed, audit
from jaxvl.rewards.columns import AskedColumns, inputs
from jaxvl.rewards.endpoint import endpoints
from jaxvl.rewards.judge import local_judges
from jaxvl.rewards.mix import score
from jaxvl.rewards.vlaa import VERIFIERS
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import read_completions

ROWS, COMPLETIONS = 16, 64  # that are measured, at most
PHOTOS = 4  # images that are made, at most
REPEATS = 2  # of what data costs, of which the least counts
CHARACTERS = 4.5  # of a token of English text, about
ANSWER = "7"
WORDS = (
    "the red cube stands left of a small blue ball behind two green boxes near this wall".split()
)


@dataclasses.dataclass(frozen=True)
class HostPart:
    """One thing that the host does in a step."""

    name: str
    what: str  # is counted: "rows" or "completions"
    measured: int  # of them
    of: int  # of them in a step, all processes together
    seconds: float  # of processor time, of those measured
    meanwhile: str  # what the devices do while a run does it; "": they wait

    @property
    def a_step(self) -> float:
        """Seconds of one processor in a step."""
        return self.seconds * self.of / self.measured


@dataclasses.dataclass(frozen=True)
class HostPlan:
    """What a step of a config costs the host."""

    config: str
    parts: tuple[HostPart, ...]
    patch_bytes: float  # handed to the devices in a step: of images,
    other_bytes: float  # and of all else
    cpus: int
    load: float  # of the machine when it began, as `uptime` has it
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        parts = [dataclasses.asdict(part) | {"a_step": part.a_step} for part in self.parts]
        return dataclasses.asdict(self) | {"parts": parts}


def plan_host(cfg: Config | SFTConfig, name: str, base: Path) -> HostPlan:
    """Measures on this machine. `base` is a checkpoint whose tokenizer and chat template stand in
    for those of a model that is not here."""
    arch, sizes, load = read_arch(cfg.model), Sizes.of(cfg), os.getloadavg()[0]
    processor, notes = _processor(cfg, arch, base)
    template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
    side = _side(processor, sizes)
    parts, asked, tokens = _data(cfg, processor, template, sizes, side)
    notes.append(
        f"made up: images of {side} x {side} pixels as JPEG, one a prompt; prompts of {tokens} "
        f"tokens; texts of {sizes.length} tokens behind them, answers that are numbers"
    )
    notes.append("left out: data.check and the files of data.digests")
    if isinstance(cfg, Config):
        rewards, others = by_rules(cfg.rewards)
        parts += _completions(cfg, rewards, processor, asked, sizes)
        notes += [f"left out: the reward {one.name}, which jaxvl's rules alone do not give"
                  for one in others]  # fmt: skip
    with jax.set_mesh(mesh := make_mesh(devices=jax.devices()[:1])):
        batch = train_batch(cfg, arch, sizes, mesh, sizes.micro_batches)
    patches = shard_bytes(batch.prompt.vision.patches)
    return HostPlan(
        config=name,
        parts=tuple(parts),
        patch_bytes=patches,
        other_bytes=shard_bytes(batch) - patches,
        cpus=os.cpu_count() or 1,
        load=load,
        notes=tuple(notes),
    )


def _processor(cfg: Config | SFTConfig, arch: Arch, base: Path) -> tuple[Processor, list[str]]:
    """The model's, or that of `base` with the model's windows; and what is to be said of it."""
    low, high = (
        getattr(cfg.data, name) or getattr(cfg.model, name) for name in ("min_pixels", "max_pixels")
    )
    path = Path(cfg.model.path).expanduser()
    with contextlib.suppress(UserError):  # a directory may hold nothing but a config.json
        if path.is_dir():
            return Processor.from_pretrained(locate(path).files, low, high).as_bytes(), []
    # The limits of published checkpoints, where the config sets none.
    found = Processor.from_pretrained(base, low, high or ImageSettings.max_pixels)
    merged = found.image.patch_size * found.image.merge_size
    window = 112 // merged if arch.vision.gated else 0
    found = dataclasses.replace(found, window=window, box_frame=BOX_FRAMES[arch.family])
    return found.as_bytes(), [f"the tokenizer of {base.name}: {cfg.model.path} has none here"]


def _side(processor: Processor, sizes: Sizes) -> int:
    """Pixels of the side of the largest square image that the buckets hold, with as many tokens
    left for words as it takes."""
    image = processor.image
    step = image.patch_size * image.merge_size
    merged = min(sizes.patches // image.merge_size**2, sizes.tokens // 2)
    side = int(min(image.max_pixels / step**2, merged) ** 0.5) * step
    if not side:
        raise UserError(
            f"buckets of at most {sizes.tokens} tokens and {sizes.patches} patches, with at most "
            f"{image.max_pixels} pixels: they hold no image of {step} x {step} pixels"
        )
    return side


def _words(rng: np.random.Generator, tokens: int) -> str:
    """A text of about so many tokens."""
    text = " ".join(rng.choice(WORDS, size=1 + int(tokens * CHARACTERS) // 4))
    return text[: int(tokens * CHARACTERS)]


def _question(
    processor: Processor, template: Callable[[Example], Any], tokens: int, side: int
) -> str:
    """A question whose prompt has at most `tokens` tokens and hardly fewer; "?" where the template
    leaves no room."""
    image = Image.new("RGB", (side, side))
    words = processor.tokenize(_words(np.random.default_rng(1), tokens))

    def made(question: str) -> int:
        example = Example("0", question, ANSWER, (image,), columns=_columns())
        return len(processor.encode(template(example), [image]).tokens)

    room = tokens - made("?")
    while room > 0:
        question = processor.decode(words[:room])
        over = made(question) - tokens
        if over <= 0:
            return question
        room -= over
    return "?"


def _columns() -> dict[str, str]:
    """What VLAA's rewards ask of a row."""
    return {"verifier_type": "digit"}


def _least(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, the least of some repeats, and what came of it."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        found = work()
        best = min(best, time.process_time() - start)
    return best, found


def _data(
    cfg: Config | SFTConfig,
    processor: Processor,
    template: Callable[[Example], Any],
    sizes: Sizes,
    side: int,
) -> tuple[list[HostPart], list[AskedColumns], int]:
    """What a step's prompts cost, measured; the prompts as they were put, and their tokens."""
    count = min(ROWS, cfg.batch.prompts)
    question = _question(processor, template, sizes.tokens, side)
    gate = ExampleFilter(trial=cfg.run.trial)
    with tempfile.TemporaryDirectory(prefix="jaxvl-host-") as folder:
        row = {"question": question, "answer": ANSWER, **_columns()}
        rows = made_up.prepared(Path(folder), [row] * count, side, min(PHOTOS, count)).load()
        gate.open(rows[0])  # what is loaded when it is first used is not a step's
        reading, examples = _least(lambda: [rows[i] for i in range(count)])
        opening, opened = _least(lambda: [gate.open(example) for example in examples])

    def cut() -> None:
        for example in opened:
            pixel_patches(example.images[0], processor.image)

    def encode() -> list[tuple[Any, Encoded]]:
        asked = [template(example) for example in opened]
        return [
            (prompt, processor.encode(prompt, list(example.images)))
            for prompt, example in zip(asked, opened, strict=True)
        ]

    cutting, _ = _least(cut)
    encoding, pairs = _least(encode)
    encoded = [one for _, one in pairs]
    together, _ = _least(functools.partial(_collate, cfg, processor, sizes, encoded))
    asked = [
        AskedColumns(example, prompt, one.image_sizes, one.processed_sizes, processor.box_frame)
        for example, (prompt, one) in zip(opened, pairs, strict=True)
    ]
    sampled = isinstance(cfg, Config)  # then all of it is made ready meanwhile
    ahead = "sampling" if sampled else "update" if cfg.data.workers else ""
    parts = [
        ("rows read", reading, ahead),
        ("images opened, test sets kept out", opening, ahead),
        ("images cut into patches", cutting, ahead),
        ("prompts rendered, tokenised, laid out", max(encoding - cutting, 0.0), ahead),
        ("rows put together", together, ahead if sampled else ""),
    ]
    found = [
        HostPart(name, "rows", count, cfg.batch.prompts, seconds, meanwhile)
        for name, seconds, meanwhile in parts
    ]
    return found, asked, len(encoded[0].tokens)


def _collate(
    cfg: Config | SFTConfig, processor: Processor, sizes: Sizes, encoded: Sequence[Encoded]
) -> dict[str, np.ndarray]:
    """The arrays of a batch, as a run makes them."""
    batch, tokens = cfg.batch, max(sizes.tokens, *(len(one.tokens) for one in encoded))
    if batch.whole_rows:
        room = packing.room(batch.whole_rows, tokens, sizes.patches, sizes.length)
        target = [processor.pad_id] * sizes.length
        how = batch.whole_rows, packing.HEADER, packing.placeholders(processor)
        rows = [[packing.text(one, target, i, *how)] for i, one in enumerate(encoded)]
        return packing.lay_rows(rows, room, processor.pad_id)
    return data_prompts.collate(
        encoded,
        range(len(encoded)),
        pad_id=processor.pad_id,
        prompt_bucket=tokens,
        patch_bucket=sizes.patches,
        rows_per_prompt=batch.group // batch.per_row,
        completions_per_row=batch.per_row,
    )


def by_rules(rewards: Sequence[Reward]) -> tuple[list[Reward], list[Reward]]:
    """The rewards that jaxvl's rules give, of a mixed one those of its kinds that do; and those
    that ask a judge or are functions of the user's own."""
    ruled: list[Reward] = []
    others: list[Reward] = []
    for reward in rewards:
        fn = reward.fn
        if isinstance(fn, Mixed):
            fn = dataclasses.replace(fn, scorer=None, only=VERIFIERS)
            ruled.append(dataclasses.replace(reward, fn=fn))
            continue
        inner = fn.func if isinstance(fn, functools.partial) else fn
        home = getattr(inner, "__module__", None) or type(inner).__module__
        asks = endpoints(fn) or local_judges([reward])
        (ruled if home.startswith("jaxvl.rewards") and not asks else others).append(reward)
    return ruled, others


def _completions(
    cfg: Config,
    rewards: Sequence[Reward],
    processor: Processor,
    asked: Sequence[AskedColumns],
    sizes: Sizes,
) -> list[HostPart]:
    """What a step's completions cost: each text once, since a text that was seen is remembered."""
    each = min(-(-COMPLETIONS // len(asked)), cfg.grpo.group)
    count, rng = each * len(asked), np.random.default_rng(2)
    texts = [_completion(rng, sizes.length, right=i % 2 == 0) for i in range(count)]
    ids = [processor.tokenize(text)[: sizes.length] for text in texts]
    mask = np.arange(sizes.length) < np.array([len(one) for one in ids])[:, None]
    tokens = np.full(mask.shape, processor.pad_id, np.int32)
    tokens[mask] = np.concatenate(ids)
    sampled: dict[str, Any] = {
        "tokens": tokens[:, None],
        "mask": mask[:, None],
        "logps": np.zeros((count, 1, sizes.length), np.float32),
        "finished": np.ones((count, 1), bool),
    }
    rollout = Rollout(**sampled)
    reading, got = _least(lambda: read_completions(rollout, processor))
    first = inputs(asked[:1], texts[:1], ids[:1])
    given = inputs(asked, texts, got.ids)
    idle = "reference" if cfg.grpo.beta or cfg.grpo.own_logps else ""
    parts = [("completions to text", reading, idle)]
    works: list[tuple[str, Callable[[dict[str, Any]], Any], str]]
    works = [("audit", audit.examine, "update")]
    if rewards:
        works.insert(0, ("rewards", lambda given: score(rewards, **given), idle))
    for name, work, meanwhile in works:
        work(first)
        start = time.process_time()
        work(given)
        parts.append((name, time.process_time() - start, meanwhile))
    of = cfg.grpo.prompts * cfg.grpo.group
    return [
        HostPart(name, "completions", count, of, seconds, meanwhile)
        for name, seconds, meanwhile in parts
    ]


def _completion(rng: np.random.Generator, tokens: int, right: bool) -> str:
    said = ANSWER if right else "8"
    return f"<think> {_words(rng, tokens)} </think> <answer> {said} </answer>"
