# SPDX-License-Identifier: Apache-2.0
"""Several reward functions, called on a batch of completions and summed by weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvl.config import Reward
from jaxvl.config.overrides import SERVICES
from jaxvl.errors import UserError
from jaxvl.rewards.call import ARGUMENTS, as_numbers, call_all


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rewards of N completions by K functions: values_NK, NaN where a function does not apply, and
    total_N, the sum weighted over those that do. Both float32.

    A completion that a function has `MASKED` is left out of the step: its total is NaN. `logged`
    and `extra` are what functions logged by name: any number of numbers, a value for each
    completion.
    """

    names: tuple[str, ...]
    values_NK: np.ndarray
    total_N: np.ndarray
    logged: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    extra: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    @property
    def masked_N(self) -> np.ndarray:
        """Whether a completion is left out of the step."""
        return np.isnan(self.total_N)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of the numbers of each name that functions logged; their sum where the name ends
        in "/count"."""
        return {
            name: sum(values) if name.endswith("/count") else sum(values) / len(values)
            for name, values in self.logged.items()
        }


def join_scores(parts: Sequence[Scores]) -> Scores:
    """The scores of several batches as those of one; a value that was logged for some of them
    alone is None in the others."""
    columns = {name for part in parts for name in part.extra}
    logged: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part.logged.items():
            logged[name] = [*logged.get(name, ()), *values]
    extra = {
        name: [x for p in parts for x in p.extra.get(name, [None] * len(p.total_N))]
        for name in columns
    }
    return Scores(
        parts[0].names,
        np.concatenate([part.values_NK for part in parts]),
        np.concatenate([part.total_N for part in parts]),
        logged,
        dict(sorted(extra.items())),
    )


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """Where the run is, under TRL's names."""

    global_step: int = 0
    max_steps: int = 0


def score(
    rewards: Sequence[Reward],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]],
    state: TrainerState = TrainerState(),
) -> Scores:
    """Call every function on the N completions; every argument holds one item for each of them.

    Beside the columns a function is given TRL's `trainer_state`, `log_metric(name, value)` (values
    of one name are averaged, or summed where it ends in "/count") and `log_extra(column, values)`.
    No column takes the place of a function's setting (see `call.settings`). Functions are called in
    order; those that are async run together. Raises UserError for a function that raises, or
    returns anything but N numbers that fit float32, Nones or MASKED, for a sum that does not fit,
    for a completion to which no function applies, and for names that are not unique.
    """
    names = tuple(reward.name for reward in rewards)
    if not names or len(set(names)) < len(names):
        raise UserError(f"rewards are {list(names)}: expected at least one, each with its own name")
    taken = [name for name in (*ARGUMENTS, *SERVICES) if name in columns]
    if taken:
        raise UserError(f"the dataset has a column `{taken[0]}`, an argument of rewards; rename it")
    inputs = {
        **dict(zip(ARGUMENTS, (prompts, completions, completion_ids), strict=True)),
        **columns,
    }
    for name, values in inputs.items():
        if len(values) != len(completions):
            raise UserError(f"`{name}` has {len(values)} items for {len(completions)} completions")
    log = _Log(len(completions))
    services = {"trainer_state": state, "log_metric": log.metric, "log_extra": log.column}
    results = call_all(rewards, inputs, services)
    masked_N = np.zeros(len(completions), bool)
    values_KN = []
    for reward, result in zip(rewards, results, strict=True):
        values_N, masked = as_numbers(reward.name, result, len(completions))
        values_KN.append(values_N)
        masked_N |= masked
    values_NK = np.asarray(values_KN, np.float32).T
    unscored = np.flatnonzero(np.isnan(values_NK).all(axis=1) & ~masked_N)
    if unscored.size:
        raise UserError(
            f"row {unscored[0]} ({len(unscored)} of {len(completions)} rows): every reward "
            f"({', '.join(names)}) returned None; at least one must apply to each completion"
        )
    total_N = _totals(rewards, values_NK, masked_N)
    return Scores(names, values_NK, total_N, log.numbers, log.columns)


def _totals(rewards: Sequence[Reward], values_NK: np.ndarray, masked_N: np.ndarray) -> np.ndarray:
    """The weighted sums in float32, NaN where a completion is masked."""
    weights_K = np.array([reward.weight for reward in rewards], np.float64)
    if not np.isfinite(weights_K).all():
        raise UserError(f"rewards have the weights {weights_K.tolist()}; expected finite numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        total_N = np.nansum(values_NK * weights_K, axis=1).astype(np.float32)
    beyond = np.flatnonzero(~np.isfinite(total_N) & ~masked_N)
    if beyond.size:
        terms = zip(rewards, values_NK[beyond[0]].tolist(), strict=True)
        added = " + ".join(f"{each.weight:g} * {x:g} ({each.name})" for each, x in terms)
        raise UserError(
            f"row {beyond[0]}: the weighted sum of its rewards, {added}, does not fit float32 (at "
            "most 3.4e38); lower the weights"
        )
    total_N[masked_N] = np.nan
    return total_N


class _Log:
    """What functions log beside their rewards."""

    def __init__(self, count: int):
        self.count = count
        self.numbers: dict[str, list[float]] = {}
        self.columns: dict[str, list[Any]] = {}

    def metric(self, name: str, value: float) -> None:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"log_metric(`{name}`) got {value!r:.60} ({type(value).__name__}); expected a "
                "number; log_extra takes a value of any kind for each completion"
            ) from None
        if not isinstance(name, str) or not name:
            raise UserError(f"log_metric got the name {name!r:.60}; expected a text")
        self.numbers.setdefault(name, []).append(number)

    def column(self, column: str, values: Sequence[Any]) -> None:
        if not isinstance(column, str) or not column:
            raise UserError(f"log_extra got the name {column!r:.60}; expected a text")
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise UserError(
                f"log_extra(`{column}`) got {values!r:.60} ({type(values).__name__}); expected a "
                f"list of {self.count} values, one for each completion"
            )
        found = list(values)
        if len(found) != self.count:
            raise UserError(
                f"log_extra(`{column}`) got {len(found)} values for {self.count} completions"
            )
        self.columns[column] = found
