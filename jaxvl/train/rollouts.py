# SPDX-License-Identifier: Apache-2.0
"""A step's completions: what draws them; on the host their text, their rewards, and the file that
keeps them.

Texts stay with the process that sampled them; numbers go to all.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from einops import rearrange

from jaxvl.config import GRPO, Config
from jaxvl.data.image import load_image
from jaxvl.distributed.mesh import DataShard
from jaxvl.errors import UserError
from jaxvl.observe.metrics import rollout_metrics
from jaxvl.rewards import audit
from jaxvl.rewards.columns import AskedColumns, inputs
from jaxvl.rewards.mix import Scores, join_scores
from jaxvl.rl import learner
from jaxvl.rl.batch import Rollout
from jaxvl.rl.completions import Completions
from jaxvl.rl.resharded import ReshardedSampler, make_sampler
from jaxvl.rl.sampler import Sampler
from jaxvl.train.prompts import StreamItem, micro
from jaxvl.vlm import VLM


def sampler(cfg: Config, vlm: VLM) -> Sampler | ReshardedSampler:
    """What draws the completions of a run of `cfg` with the parameters of `vlm`."""
    how = cfg.sampling
    drawn = vlm.decoding(
        cfg.batch.per_row,
        how.max_new_tokens,
        how.temperature,
        how.top_p,
        how.top_k,
        how.slots,
        how.ban,
    )
    drawn = dataclasses.replace(
        drawn, int8_weights=how.weights == "int8", int8_cache=how.cache == "int8"
    )
    form = vlm.config, vlm.graphdef, drawn, cfg.model.dtype
    return make_sampler(*form, vlm.mesh, how.tensor)


def mini_batches(batch: Any, order_R: np.ndarray, grpo: GRPO) -> list[Any]:
    """Host arrays [R, ..] of each update, [micro-batch, row, ..], rows in an order."""
    parts = micro(learner.in_order(batch, order_R), grpo.mini_batches)
    return [
        micro(jax.tree.map(lambda x, i=i: x[i], parts), grpo.micro_batches)
        for i in range(grpo.mini_batches)
    ]


def reward_inputs(items: Sequence[StreamItem], got: Completions, box_frame: str) -> dict[str, Any]:
    """What `rewards.score` takes of the completions of a step."""
    questions = [
        AskedColumns(
            item.example,
            item.prompt,
            item.encoded.image_sizes,
            item.encoded.processed_sizes,
            box_frame,
        )
        for item in items
    ]
    return inputs(questions, got.texts, got.ids)


@dataclasses.dataclass(frozen=True)
class ScoredRollout:
    """P prompts and what was sampled for them, on the host. Arrays are [R, g, C], all rows of a
    prompt side by side."""

    items: list[StreamItem]
    arrays: dict[str, np.ndarray] | None  # their collated prompts; None: of rounds that are joined
    rollout: Rollout
    logps: Mapping[str, np.ndarray]  # of the sampled tokens, by the names of a batch's fields
    got: Completions
    scores: Scores

    @property
    def asked(self) -> dict[int, tuple[str, list[float]]]:
        """Each prompt's example and the rewards of its completions, by its position."""
        rows = zip(self.items, self.total_PG.tolist(), strict=True)
        return {item.position: (item.example.id, rewards) for item, rewards in rows}

    def tokens(self, share: DataShard) -> int:
        """Of prompts and completions over all processes, a prompt once for each completion, as TRL
        counts."""
        group = len(self.got.ids) // len(self.items)
        asked = group * sum(len(item.encoded.tokens) for item in self.items)
        return sum(share.all_gather_object(asked + int(self.got.lengths_N.sum())))

    @property
    def total_PG(self) -> np.ndarray:
        """Rewards, NaN where a completion is masked."""
        return rearrange(self.scores.total_N, "(P G) -> P G", P=len(self.items))

    def learnt(self, chosen: np.ndarray, masks_truncated: bool) -> dict[str, Any]:
        """The fields of a train batch that tell of the prompts `chosen`, rows in their order."""
        g = self.rollout.finished.shape[1]
        mask = self.rollout.mask & ~rearrange(self.scores.masked_N, "(R g) -> R g 1", g=g)
        if masks_truncated:
            mask = mask & self.rollout.finished[..., None]
        rows_Pr = rearrange(np.arange(len(mask)), "(P r) -> P r", P=len(self.items))
        rows = rearrange(rows_Pr[chosen], "P r -> (P r)")
        arrays: dict[str, Any] = {
            "tokens": self.rollout.tokens,
            "mask": mask,
            "old_logps": self.rollout.logps,
        }
        arrays = {"ref_logps": np.zeros_like(self.rollout.logps), **arrays, **self.logps}
        return {name: x[rows] for name, x in arrays.items()}


def join(rounds: Sequence[ScoredRollout]) -> ScoredRollout:
    """The prompts of several rounds as those of one."""

    def stacked(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)

    got = [each.got for each in rounds]
    return ScoredRollout(
        items=[item for each in rounds for item in each.items],
        arrays=None,
        rollout=jax.tree.map(stacked, *(each.rollout for each in rounds)),
        logps=jax.tree.map(stacked, *(each.logps for each in rounds)),
        got=Completions(
            [text for each in got for text in each.texts],
            [ids for each in got for ids in each.ids],
            stacked(*(each.finished_N for each in got)),
        ),
        scores=join_scores([each.scores for each in rounds]),
    )


def choose(live_P: np.ndarray, count: int) -> np.ndarray:
    """`count` prompts in their order: the first that are live, and the first others to fill up."""
    return np.sort(np.argsort(~live_P, kind="stable")[:count])


# Names of a step's line that are the run's own, beside those of `Results.metrics`.
OWN = re.compile(
    r"(step|loss|kl|entropy|grad_norm|learning_rate|beta|updates|skipped_steps|num_tokens"
    r"|step_time|frac_live_rows|nonfinite|mfu|verify/restarts)$"
    r"|(time|perf|sampling|data|clip_ratio|dynamic_sampling|eval|rewards|completions)[/_]"
)


@dataclasses.dataclass(frozen=True)
class Results:
    """Numbers of N completions: rewards, columns of `audit.examine`, tokens, and who ended."""

    scores: Scores
    checks: dict[str, np.ndarray]
    lengths_N: np.ndarray
    finished_N: np.ndarray

    def metrics(self, group: int) -> dict[str, float]:
        """The metrics of a step with these completions."""
        found = rollout_metrics(self.scores, self.lengths_N, self.finished_N, group)
        found |= audit.metrics(self.checks, self.lengths_N, group)
        logged = self.scores.metrics
        taken = sorted(name for name in logged if name in found or OWN.match(name))
        if taken:
            raise UserError(
                f"a reward logs the metric `{taken[0]}`, which is the run's own; take another name"
            )
        return found | logged


def allgather_results(own: Results, share: DataShard) -> Results:
    """The same of the completions of all processes, who must all call it."""
    parts = share.all_gather_object(
        {
            "values": own.scores.values_NK.tolist(),
            "total": own.scores.total_N.tolist(),
            "logged": own.scores.logged,
            "checks": {name: column.tolist() for name, column in own.checks.items()},
            "lengths": own.lengths_N.tolist(),
            "finished": own.finished_N.tolist(),
        }
    )

    def column(part: Mapping[str, Any], name: str) -> np.ndarray:
        return np.array(part[name], np.float32)

    names = own.scores.names
    return Results(
        scores=join_scores(
            [Scores(names, column(p, "values"), column(p, "total"), p["logged"]) for p in parts]
        ),
        checks={
            name: np.concatenate([column(part["checks"], name) for part in parts])
            for name in own.checks
        },
        lengths_N=np.array([length for part in parts for length in part["lengths"]]),
        finished_N=np.array([ended for part in parts for ended in part["finished"]]),
    )


def broadcast_scores(scores: Scores, share: DataShard) -> Scores:
    """Rewards that are the same in all processes with the same completions: where a judge or a
    clock has made them differ, those of the first."""
    if share.count == jax.process_count():
        return scores
    values, total = share.all_gather_object([scores.values_NK.tolist(), scores.total_N.tolist()])[
        share.index
    ]
    return dataclasses.replace(
        scores, values_NK=np.array(values, np.float32), total_N=np.array(total, np.float32)
    )


def write(
    run_dir: Path,
    step: int,
    sampled: ScoredRollout,
    chosen: np.ndarray,
    advantages_PG: np.ndarray,
    images: int,
    share: DataShard,
) -> None:
    """`rollouts/step_N.jsonl`, a prompt a line, with the images of the first `images` prompts.

    The advantages are those of the prompts `chosen`; the others were not learnt from, which their
    lines say. Every share of the rows has a file, those after the first `step_N.SHARE.jsonl`.
    """
    if not share.is_lead:
        return
    items, got, scores = sampled.items, sampled.got, sampled.scores
    by_prompt = dict(zip(chosen.tolist(), advantages_PG, strict=True))
    folder = run_dir / "rollouts"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    group = advantages_PG.shape[1]
    lines = []
    for p, item in enumerate(items):
        files, number = [], share.index * len(items) + p
        for i, image in enumerate(item.example.images if number < images else ()):
            file = folder / "images" / f"step_{step}_{number}_{i}.png"
            picture = load_image(image)
            picture.thumbnail((512, 512))
            picture.save(file)
            files.append(str(file.relative_to(run_dir)))
        completions = []
        for n in range(p * group, (p + 1) * group):
            values = [None if np.isnan(x) else float(x) for x in scores.values_NK[n]]
            completions.append(
                {
                    "text": got.texts[n],
                    "tokens": len(got.ids[n]),
                    "rewards": dict(zip(scores.names, values, strict=True)),
                    "reward": None if scores.masked_N[n] else float(scores.total_N[n]),
                    "advantage": float(by_prompt[p][n % group]) if p in by_prompt else None,
                    "finish_reason": "stop" if got.finished_N[n] else "length",
                    **(
                        {"extra": {k: v[n] for k, v in scores.extra.items()}}
                        if scores.extra
                        else {}
                    ),
                }
            )
        lines.append(
            {
                "step": step,
                "prompt_id": item.position,
                "id": item.example.id,
                "task": item.example.task,
                "prompt": item.encoded.text,
                "image_files": files,
                "answer": item.example.answer,
                **({} if p in by_prompt else {"learnt": False}),
                "completions": completions,
            }
        )
    text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    (folder / share_file(step, share)).write_text(text, encoding="utf-8")


def share_file(step: int, share: DataShard) -> str:
    """The name of a share's file of a step."""
    return f"step_{step}.{share.index}.jsonl" if share.index else f"step_{step}.jsonl"
