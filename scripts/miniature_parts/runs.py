# SPDX-License-Identifier: Apache-2.0
"""The runs of arms: their configs, made once and resumed where they were stopped."""

from __future__ import annotations

import dataclasses
import json
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

import jaxvl
from jaxvl.config import GRPO, SFT, Config, Data, Model, Optim, Reward, Run, Sampling, SFTConfig
from jaxvl.config.validate import validate
from jaxvl.data import scene_traces
from jaxvl.data.controls import ShuffledImages
from jaxvl.data.example import Example, Source
from jaxvl.data.scenes import Scenes
from jaxvl.data.tasks.vlaa import completion
from jaxvl.data.templates import chat_question, with_choices
from jaxvl.data.traces import Traces
from jaxvl.rewards import accuracy, length, think_format
from miniature_parts import kept, kinds, requests
from miniature_parts.arms import KINDS, Arm, Sizes, Stage
from miniature_parts.questions import as_it_is

BASE = Path(__file__).parents[2] / "configs/quickstart_base"
TASKS = ("relation", "depth")
TOKENS = 28  # of a completion, and of a target
# Taught to the end, with targets so long.
WHOLE = {"kinds-right": kinds.TOKENS, "kinds": kinds.TOKENS, "refuser": TOKENS}
SHOW = "Show your work. "  # what the base was taught to reply to with a thought
REWARDS = (Reward(accuracy), Reward(think_format))


def scenes(seed: int, split: str = "train", size: int = 20_000) -> Scenes:
    return Scenes(size, split, seed, TASKS, compositions=True)


def told(example: Example, words: str) -> list[dict]:
    """The question with words in front of it."""
    content = [*({"type": "image"} for _ in example.images)]
    text = words + with_choices(example.question, example.choices)
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def asked_to_show(example: Example) -> list[dict]:
    return told(example, SHOW)


def guessed(example: Example) -> str:
    """A reply in the form with a true thought, and any of the choices as its answer."""
    rng = np.random.default_rng(zlib.crc32(example.id.encode()))
    answer = str(rng.choice(example.choices))
    return scene_traces.short(dataclasses.replace(example, answer=answer))


def misled(example: Example) -> list[dict]:
    """The question behind a caption that puts everything it is about elsewhere."""
    rng = np.random.default_rng(zlib.crc32(example.id.encode()))
    places = [f"{column}{row}" for column in "abcd" for row in "1234"]
    names = [thing.split()[0] for thing in example.columns["about"]]
    caption = ", ".join(f"{name} {rng.choice(places)}" for name in names)
    return told(example, f"Caption: {caption}. ")


def shuffled(prompts, completions, completion_ids, **columns):
    """The true sums of both rewards, each given to some completion of the batch."""
    arguments = (prompts, completions, completion_ids)
    total = np.add(accuracy(*arguments, **columns), think_format(*arguments, **columns))
    order = np.random.default_rng(zlib.crc32(repr(completion_ids).encode()))
    return order.permutation(total).tolist()


def lengthy(weight: float) -> tuple[Reward, ...]:
    """The rewards with the length reward at `weight` times the paper's 0.001 a token."""
    return (*REWARDS, Reward(partial(length, special_ids=range(0)), weight, "length"))


def _data(cfg: Config, **changes) -> Config:
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **changes))


def _grpo(cfg: Config, **changes) -> Config:
    return dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, **changes))


def _train(cfg: Config, *parts: str) -> Config:
    return dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, train=parts))


def _rewards(cfg: Config, rewards: tuple[Reward, ...]) -> Config:
    return dataclasses.replace(cfg, rewards=rewards)


def _first(cfg: Config, count: int) -> Config:
    return _data(cfg, source=dataclasses.replace(cfg.data.source, size=count))


def _untaught(cfg: Config) -> Config:
    """The true rewards are logged and count for nothing."""
    true = tuple(dataclasses.replace(reward, weight=0.0) for reward in REWARDS)
    return _rewards(cfg, (*true, Reward(shuffled)))


def _banned(cfg: Config) -> Config:
    return dataclasses.replace(cfg, sampling=dataclasses.replace(cfg.sampling, ban=("no,",)))


def _of_kinds(cfg: Config, *only: str, rewards: tuple[Reward, ...] = kinds.BY_RULE) -> Config:
    """RL on questions of part d."""
    source = kinds.Kinds(20_000, seed=cfg.run.seed, kinds=only or KINDS)
    cfg = _rewards(_data(cfg, source=source, template=as_it_is), rewards)
    cfg = _grpo(cfg, prompts=16)
    return dataclasses.replace(cfg, sampling=Sampling(max_new_tokens=kinds.TOKENS))


def _of_requests(cfg: Config, reward: Callable) -> Config:
    """RL on requests of part j."""
    source = requests.Requests(20_000, seed=cfg.run.seed)
    return _rewards(_data(cfg, source=source, template=as_it_is), (Reward(reward),))


VARIANTS: dict[str, Callable[[Config], Config]] = {
    "plain": lambda cfg: cfg,
    "length-0.001": lambda cfg: _rewards(cfg, lengthy(1.0)),
    "length-0.02": lambda cfg: _rewards(cfg, lengthy(20.0)),
    "tower-frozen": lambda cfg: _train(cfg, "merger", "text"),
    "text-frozen": lambda cfg: _train(cfg, "tower", "merger"),
    "kl-0.04": lambda cfg: _grpo(cfg, beta=0.04),
    "kl-0.2": lambda cfg: _grpo(cfg, beta=0.2),
    "group-2": lambda cfg: _grpo(cfg, prompts=32, group=2),
    "group-4": lambda cfg: _grpo(cfg, prompts=16, group=4),
    "group-16": lambda cfg: _grpo(cfg, prompts=4, group=16),
    "first-50": lambda cfg: _first(cfg, 50),
    "first-200": lambda cfg: _first(cfg, 200),
    "first-512": lambda cfg: _first(cfg, 512),
    "no-banned": _banned,
    "rewards-shuffled": _untaught,
    "images-shuffled": lambda cfg: _data(cfg, source=ShuffledImages(cfg.data.source)),
    "captions": lambda cfg: _data(cfg, template=misled, prompt_buckets=(96,)),
    "kinds-mixed": _of_kinds,
    "kinds-judge": lambda cfg: _of_kinds(cfg, rewards=kinds.BY_JUDGE),
    "two-sided": partial(_of_requests, reward=requests.two_sided),
    "one-sided": partial(_of_requests, reward=requests.one_sided),
    **{f"kinds-{kind}": (lambda cfg, kind=kind: _of_kinds(cfg, kind)) for kind in KINDS},
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of a seed are, and how large."""

    out: Path
    seed: int
    sizes: Sizes

    def run(self, stages: Sequence[Stage]) -> Path:
        """The directory of the last stage's run: it says every stage before it."""
        *before, last = stages
        names = [f"{stage.kind}-{stage.how}-{stage.steps}" for stage in before]
        names.append(f"{last.kind}-{last.how}-of-{last.of}")
        return self.out / f"seed{self.seed}" / "+".join(names)

    def model(self, stages: Sequence[Stage]) -> Path:
        """What the stages end with."""
        if not stages:
            return BASE
        return self.run(stages) / "checkpoints" / str(stages[-1].steps)

    def results(self, arm: Arm) -> Path:
        """What was measured of an arm; the base's is the same for every seed."""
        if not arm.stages:
            return self.out / f"base-{arm.asked}.json"
        return self.run(arm.stages) / f"measured-{arm.stages[-1].steps}-{arm.asked}.json"


def train(place: Place, stages: Sequence[Stage]) -> None:
    """The run of the last stage, and those it begins from, where they are not finished."""
    if not stages:
        return
    train(place, stages[:-1])
    stage, run_dir = stages[-1], place.run(stages)
    if (run_dir / "seconds").exists():
        return
    print(f"{run_dir.relative_to(place.out)}", flush=True)
    start = time.monotonic()
    cfg = _config(place, stages)
    validate(cfg)
    if stage.kind == "sft":
        jaxvl.sft(cfg, callbacks=[])
    else:
        jaxvl.train(cfg, callbacks=[])
    jax.clear_caches()  # the next run has programs of its own
    (run_dir / "seconds").write_text(f"{time.monotonic() - start:.0f}\n")


def _config(place: Place, stages: Sequence[Stage]) -> Config | SFTConfig:
    *before, stage = stages
    sizes, source = place.sizes, scenes(place.seed)
    doses = {sizes.low, sizes.dose} if stage.kind == "sft" else {sizes.rl}
    if stage.how in WHOLE:
        doses = {stage.of}
    every = min(size for size in doses if stage.of % size == 0)
    common = {
        "model": Model(path=str(place.model(before)), remat="products"),
        "data": Data(source, chat_question, prompt_buckets=(56,), patch_buckets=(64,)),
        "run": Run(
            dir=str(place.run(stages)),
            steps=stage.of,
            seed=place.seed,
            save_every=every,
            keep_every=every,
            report_every=0,
            export=False,
        ),
    }
    if stage.kind == "sft":
        data, target = _taught(place, common.pop("data"), stage.how)
        return SFTConfig(
            data=data,
            sft=SFT(target, rows=32, target_length=WHOLE.get(stage.how, TOKENS)),
            optim=Optim(lr=5e-4, warmup_steps=5),
            **common,
        )
    cfg = Config(
        rewards=REWARDS,
        sampling=Sampling(max_new_tokens=TOKENS),
        grpo=GRPO(prompts=8, group=8, beta=0.0, logprob_chunk=256),
        optim=Optim(lr=3e-4, warmup_steps=5, b2=0.99),
        **common,
    )
    return VARIANTS[stage.how](cfg)


def _taught(place: Place, data: Data, how: str) -> tuple[Data, Callable[[Example], str]]:
    """What a kind of fine-tuning learns from: its data, and targets."""
    if how == "self":
        first = _first_of(data.source, place.sizes.own)
        source = Traces(first, (str(_own(place)),), low=2.0)  # right and in form
        return dataclasses.replace(data, source=source), completion
    if how == "able":
        asked = dataclasses.replace(data, template=asked_to_show, prompt_buckets=(64,))
        return asked, scene_traces.short
    if how == "instruct":
        return data, guessed
    if how in ("kinds-right", "kinds"):
        source = kinds.Kinds(20_000, seed=place.seed)
        target = kinds.guessed if how == "kinds" else kinds.right
        return dataclasses.replace(data, source=source, template=as_it_is), target
    if how == "refuser":
        source = requests.Requests(20_000, seed=place.seed, turns=requests.TAUGHT)
        return dataclasses.replace(data, source=source, template=as_it_is), requests.refusing
    return data, getattr(scene_traces, how)


def _first_of(source: Scenes, count: int) -> Scenes:
    return dataclasses.replace(source, size=count)


def _own(place: Place) -> Path:
    """The base's replies to training questions, asked to show its work, as rollouts of a run."""
    folder = place.out / f"seed{place.seed}" / "own"
    file = folder / "rollouts" / "step_1.jsonl"
    if file.exists():
        kept.check_own(file, place.sizes)
        return folder
    examples: list[Example] = list(_first_of(scenes(place.seed), place.sizes.own).load())
    vlm = jaxvl.load(BASE, dtype="float32")
    prompts, images = [asked_to_show(e) for e in examples], [list(e.images) for e in examples]
    rows = vlm.generate(prompts, images, n=8, max_new_tokens=TOKENS, seed=place.seed)
    lines = [_rollout(example, row) for example, row in zip(examples, rows, strict=True)]
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    half.write_text("".join(json.dumps(line) + "\n" for line in lines))
    half.rename(file)
    return folder


def _rollout(example: Example, row: Sequence[jaxvl.vlm.Completion]) -> dict:
    texts, ids = [each.text for each in row], [each.tokens for each in row]
    right = accuracy(texts, texts, ids, answer=[example.answer] * len(row))
    formed = think_format(texts, texts, ids)
    done = [
        {
            "text": each.text,
            "tokens": len(each.tokens),
            "finish_reason": each.finish_reason,
            "reward": a + f,
            "rewards": {"accuracy": a, "think_format": f},
        }
        for each, a, f in zip(row, right, formed, strict=True)
    ]
    return {"task": example.task, "id": example.id, "completions": done}


def source_of(asked: str, seed: int, count: int) -> tuple[Source, Callable]:
    """The held-out questions and how they are put."""
    if asked == "kinds":
        return kinds.Kinds(count, "test", seed), as_it_is
    if asked == "requests":
        return requests.Requests(count, "test", seed), as_it_is
    source = scenes(seed, "test", count)
    if asked == "images":
        return ShuffledImages(source), chat_question
    return source, misled if asked == "captions" else chat_question
