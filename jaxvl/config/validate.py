# SPDX-License-Identifier: Apache-2.0
"""Whether a config can be run: the type and range of every field, and fields that must agree."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterator
from typing import Any

from jaxvl.config.batch import BatchShape
from jaxvl.config.fields import MISSING, check_fields, to_json, type_name
from jaxvl.config.grpo import GRPO
from jaxvl.config.overrides import function_name, keywords
from jaxvl.config.schema import Config, Model, Reward, SFTConfig
from jaxvl.errors import UserError


def validate(cfg: Config | SFTConfig) -> None:
    """Raise UserError for a field of the wrong type or range, and for fields that disagree."""
    check_fields(cfg)
    _check_sizes(cfg)
    _check_parts(cfg.model)
    steps = cfg.optim.warmup_steps
    if steps > 1 and steps != int(steps):
        raise UserError(f"optim.warmup_steps = {steps}: expected whole updates, or a share below 1")
    if cfg.optim.min_lr > cfg.optim.lr:
        raise UserError(
            f"optim.min_lr = {cfg.optim.min_lr} is above optim.lr = {cfg.optim.lr}, where the "
            "schedule starts"
        )
    _check_run(cfg)
    _check_profile(cfg)
    _check_rewards(cfg)
    if cfg.grpo is not None:
        _check_grpo(cfg)
    mesh = (cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor)
    if mesh.count(-1) > 1:
        raise UserError(f"mesh (data, fsdp, tensor) = {mesh}: at most one is -1")
    if -1 not in mesh[:2]:
        check_rows(cfg.batch, mesh[0] * mesh[1])


def notes(cfg: Config | SFTConfig) -> list[str]:
    """What is done otherwise than a config may seem to say, in words."""
    optim = cfg.optim
    found: list[str] = []
    if cfg.run.compile_ahead and cfg.sft is not None:
        found.append(
            "run.compile_ahead changes nothing of a supervised run: its update is compiled when a "
            "step first needs it"
        )
    if not cfg.run.steps:  # how many epochs are is not known before the data is read
        return found
    updates = cfg.run.steps * cfg.batch.updates
    warmup, horizon = optim.span(updates)
    if optim.warmup_steps > horizon:
        found.append(
            f"optim.warmup_steps = {optim.warmup_steps:g} is more than the schedule's {horizon} "
            f"updates: the learning rate rises over all {horizon}"
        )
    elif updates < warmup:
        found.append(
            f"the run's {updates} updates end within its warm-up of {warmup}: the learning rate "
            f"comes to {optim.lr * updates / warmup:g} of optim.lr = {optim.lr:g}"
        )
    if horizon < updates and optim.schedule != "constant":
        found.append(
            f"optim.horizon = {horizon} is less than the run's {updates} updates: those after it "
            f"are made at optim.min_lr = {optim.min_lr:g}"
        )
    return found


def _check_sizes(cfg: Config | SFTConfig) -> None:
    for name in ("prompt_buckets", "patch_buckets"):
        buckets = getattr(cfg.data, name)
        if buckets == "auto":
            continue
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UserError(f"data.{name} = {buckets}: expected sizes that grow, as (256, 512)")
    patches = cfg.data.patch_buckets
    if patches != "auto" and any(size % 4 for size in patches):
        raise UserError(
            f"data.patch_buckets = {patches}: patches are merged by 2x2, use multiples of 4"
        )
    for name in ("model", "data", "eval"):
        part = getattr(cfg, name, None)
        low, high = getattr(part, "min_pixels", None), getattr(part, "max_pixels", None)
        if low is not None and high is not None and low > high:
            raise UserError(f"{name}.min_pixels = {low} is above {name}.max_pixels = {high}")


def _check_run(cfg: Config | SFTConfig) -> None:
    run = cfg.run
    for name, path in (("run.dir", run.dir), ("model.path", cfg.model.path)):
        if not path.strip() or "\0" in path:
            raise UserError(f"{name} = {path!r}: expected a path")
    if run.steps < 1 and run.epochs is None:
        raise UserError(f"run.steps = {run.steps}: expected a number at least 1, or run.epochs")
    if run.keep_every and run.keep_every % run.save_every:
        raise UserError(
            f"run.keep_every = {run.keep_every} is no multiple of run.save_every = "
            f"{run.save_every}: there would be nothing to keep after most of these steps"
        )
    if run.allow:
        known = set(_names(to_json(cfg)))
        for name in run.allow:
            if name.strip() not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "expected names such as optim.lr"
                raise UserError(f"run.allow: there is no field `{name}`; {hint}")
    if cfg.eval and not cfg.rewards:
        raise UserError(
            "eval needs rewards that score its answers, as "
            "rewards=(Reward(accuracy),) of jaxvl.rewards"
        )


def _names(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a config's parts and fields, of what `to_json` made of it."""
    parts = dict(enumerate(value)) if isinstance(value, list) else value
    for key, item in parts.items() if isinstance(parts, dict) else ():
        yield f"{prefix}{key}"
        yield from _names(item, f"{prefix}{key}.")


def _check_profile(cfg: Config | SFTConfig) -> None:
    try:
        span = cfg.profile.span()
        last = cfg.run.steps or math.inf  # of so many epochs it is not known yet
        fits = not cfg.profile.steps or (1 <= span[0] and span[-1] <= last)
    except (ValueError, IndexError):
        fits = False
    if not fits:
        raise UserError(
            f"profile.steps = {cfg.profile.steps!r}: expected first:last, from 1 to run.steps = "
            f"{cfg.run.steps}, as 3:5"
        )


def _check_parts(m: Model) -> None:
    if not m.train and m.lora is None:
        raise UserError("model.train is empty and model.lora is none: nothing would be trained")
    for part in set(m.train) & set(m.lora.parts if m.lora else ()):
        raise UserError(
            f"{part} is in model.train and in model.lora.parts: either its own weights train or "
            "adapters beside them; take it out of one (model.train=() trains adapters alone, "
            "model.lora=none the weights)"
        )


def _check_grpo(cfg: Config) -> None:
    g = cfg.grpo
    if g.group_per_row and g.group % g.group_per_row:
        raise UserError(
            f"grpo.group_per_row = {g.group_per_row} does not divide grpo.group = {g.group}; "
            f"the nearest that does is {_nearest_divisor(g.group, g.group_per_row)}"
        )
    _check_loss(g)
    for name in ("weights", "cache"):
        value = getattr(cfg.sampling, name)
        if value is not None and g.importance_sampling_cap is None:
            raise UserError(
                f"sampling.{name} = {value} draws from another policy than the one that learns, "
                "and nothing corrects for it where grpo.importance_sampling_cap is none; "
                f"set grpo.importance_sampling_cap=2, or sampling.{name}=none"
            )
    if not cfg.rewards:
        raise UserError("rewards: expected at least one, which is learnt from, found none")


def _check_rewards(cfg: Config | SFTConfig) -> None:
    names = [reward.name for reward in cfg.rewards]
    if len(set(names)) < len(names):
        raise UserError(f"rewards are {names}: expected for each a name of its own")
    for number, reward in enumerate(cfg.rewards):
        _check_settings(reward, f"rewards.{number}.fn")


def _check_settings(reward: Reward, path: str) -> None:
    """Raise UserError for a setting that one of jaxvl's rewards needs and does not have."""
    fn = reward.fn.func if isinstance(reward.fn, functools.partial) else reward.fn
    if not getattr(fn, "__module__", "").startswith("jaxvl.rewards"):
        return
    bound = getattr(reward.fn, "keywords", {})
    for name, (kind, default) in keywords(fn).items():
        if default is MISSING and name not in bound:
            raise UserError(
                f"{path}: {function_name(fn)} needs `{name}` ({type_name(kind)}); set "
                f"{path}.{name} too"
            )


def _check_loss(g: GRPO) -> None:
    delta = getattr(g.loss, "delta", None)
    if delta is not None:
        high = g.loss.epsilon if g.loss.epsilon_high is None else g.loss.epsilon_high
        if delta <= 1 + high:
            raise UserError(
                f"grpo.loss.delta = {delta} is not above {1 + high}, where the upper clip is "
                "(1 + grpo.loss.epsilon_high): ratios within the clip would be bounded"
            )
    if g.adaptive_kl is not None and not g.beta:
        raise UserError("grpo.adaptive_kl needs a grpo.beta above 0 to start from, as 1e-3")


def check_rows(batch: BatchShape, shards: int) -> None:
    """Raise UserError unless every micro-batch splits evenly over `shards` = data * fsdp devices.

    Called by `validate` where the mesh is written out, and again once a -1 is known.
    """
    parts = shards * batch.pieces
    if batch.rows % parts == 0:
        return
    cures = _cures(batch, shards)
    if not cures:  # nothing else will do: a step's batch is no longer what it was
        step = parts // math.gcd(parts, batch.group // batch.per_row)
        cures.append(f"{batch.prompts_field}={-(-batch.prompts // step) * step}")
    has = f"{batch.prompts_field} = {batch.prompts} is"
    if batch.group > 1:
        has = f"a step has {batch.rows} rows ({batch.prompts} prompts, groups of {batch.group} in "
        has += f"rows of {batch.per_row}),"
    cut = f"{batch.part}.micro_batches ({batch.micro_batches})"
    if batch.mini_batches > 1:
        cut = f"{batch.part}.mini_batches ({batch.mini_batches}) * {cut}"
    raise UserError(
        f"{has} not a multiple of {parts} = mesh.data * mesh.fsdp ({shards}) * {cut}; "
        f"try {' or '.join(cures)}"
    )


def _cures(batch: BatchShape, shards: int) -> list[str]:
    """Settings with which a step's completions, as many as they are, split evenly: one of rows of
    other parts of a group, fewer micro-batches, or where neither will do both."""

    def fits(per_row: int, micro_batches: int) -> bool:
        rows = batch.prompts * batch.group // per_row
        return rows % (shards * batch.mini_batches * micro_batches) == 0

    sizes = [size for size in range(1, batch.group + 1) if batch.group % size == 0]
    sizes.sort(key=lambda size: abs(size - batch.per_row))
    row = [size for size in sizes if fits(size, batch.micro_batches)]
    fewer = [n for n in range(batch.micro_batches - 1, 0, -1) if fits(batch.per_row, n)]
    per_row, parts = f"{batch.row_field}={{}}", f"{batch.part}.micro_batches={{}}"
    cures = [per_row.format(size) for size in row[:1]] + [parts.format(n) for n in fewer[:1]]
    both = [(n, s) for n in range(batch.micro_batches - 1, 0, -1) for s in sizes if fits(s, n)]
    return cures or [f"{per_row.format(s)} {parts.format(n)}" for n, s in both[:1]]


def check_share(batch: BatchShape, count: int) -> None:
    """Raise UserError unless the prompts of a step can be dealt out evenly to `count` processes."""
    name, prompts = batch.prompts_field, batch.prompts
    if prompts % count:
        raise UserError(
            f"{name} = {prompts} is not a multiple of the {count} processes that get prompts of "
            f"their own; try {name}={-(-prompts // count) * count}"
        )


def _nearest_divisor(number: int, near: int) -> int:
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    return min(divisors, key=lambda size: abs(size - near))
