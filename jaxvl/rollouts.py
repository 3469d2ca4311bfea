# SPDX-License-Identifier: Apache-2.0
"""A step's completions on the host: their text, their rewards, and the file that keeps them.

Texts stay with the process that sampled them; numbers go to all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvl.batch import Rollout
from jaxvl.data.image import load_image
from jaxvl.data.prompts import Processor
from jaxvl.loop import Item
from jaxvl.metrics import rollout_metrics
from jaxvl.rewards import audit
from jaxvl.rewards.mix import Scores
from jaxvl.sharding import RowShare


@dataclasses.dataclass(frozen=True)
class Answers:
    """The completions of P prompts, G each, side by side: N = P * G."""

    texts: list[str]
    ids: list[list[int]]
    finished_N: np.ndarray

    @property
    def lengths_N(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids])


def answers(rollout: Rollout, processor: Processor) -> Answers:
    """Texts of a rollout whose arrays are on the host; rows of a prompt are consecutive."""
    C = rollout.tokens.shape[-1]
    tokens_NC, mask_NC = rollout.tokens.reshape(-1, C), rollout.mask.reshape(-1, C)
    ids = [row[mask].tolist() for row, mask in zip(tokens_NC, mask_NC, strict=True)]
    return Answers([processor.decode(row) for row in ids], ids, rollout.finished.reshape(-1))


def reward_inputs(items: Sequence[Item], got: Answers, group: int) -> dict[str, Any]:
    """What `rewards.score` takes: TRL's three arguments and a column for every field of the data.

    A completion is a string where the prompt is one, else a list with an assistant's message, as
    in TRL. A field that only some examples have is None in the others. `image_sizes` and
    `processed_sizes` hold (width, height) for each picture, as it was given and as the model sees
    it.
    """
    prompts = [item.prompt for item in items for _ in range(group)]
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, got.texts, strict=True)
    ]
    names = {name for item in items for name in item.example.columns}
    columns = {
        name: [item.example.columns.get(name) for item in items for _ in range(group)]
        for name in sorted(names)
    }
    for name in ("id", "question", "answer", "choices", "task", "images"):
        columns[name] = [getattr(item.example, name) for item in items for _ in range(group)]
    for name in ("image_sizes", "processed_sizes"):
        columns[name] = [getattr(item.encoded, name) for item in items for _ in range(group)]
    return {
        "prompts": prompts,
        "completions": completions,
        "completion_ids": got.ids,
        "columns": columns,
    }


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
        return found | self.scores.metrics


def exchange(own: Results, share: RowShare) -> tuple[Results, Results]:
    """(what all hold this process's completions to be, those of all processes).

    Processes with the same completions take the rewards of one, should a judge or a clock have
    made them differ. All processes must call it.
    """
    parts = share.exchange(
        {
            "values": own.scores.values_NK.tolist(),
            "total": own.scores.total_N.tolist(),
            "logged": own.scores.logged,
            "checks": {name: column.tolist() for name, column in own.checks.items()},
            "lengths": own.lengths_N.tolist(),
            "finished": own.finished_N.tolist(),
        }
    )
    mine = dataclasses.replace(
        own.scores,
        values_NK=np.array(parts[share.index]["values"], np.float32),
        total_N=np.array(parts[share.index]["total"], np.float32),
    )

    def every(name: str) -> list[Any]:
        return [value for part in parts for value in part[name]]

    logged: dict[str, list[float]] = {}
    for part in parts:
        for name, values in part["logged"].items():
            logged[name] = [*logged.get(name, ()), *values]
    scores = Scores(
        own.scores.names,
        np.array(every("values"), np.float32),
        np.array(every("total"), np.float32),
        logged,
    )
    checks = {
        name: np.concatenate([np.array(part["checks"][name], float) for part in parts])
        for name in own.checks
    }
    whole = Results(scores, checks, np.array(every("lengths")), np.array(every("finished")))
    return dataclasses.replace(own, scores=mine), whole


def write(
    run_dir: Path,
    step: int,
    items: Sequence[Item],
    got: Answers,
    scores: Scores,
    advantages_PG: np.ndarray,
    images: int,
    share: RowShare,
) -> None:
    """`rollouts/step_N.jsonl`, a prompt a line, with the pictures of the first `images` prompts.

    Every share of the rows has a file, those after the first `step_N.SHARE.jsonl`.
    """
    if not share.leading:
        return
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
                    "advantage": float(advantages_PG.reshape(-1)[n]),
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
                "completions": completions,
            }
        )
    text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    name = f"step_{step}.{share.index}.jsonl" if share.index else f"step_{step}.jsonl"
    (folder / name).write_text(text, encoding="utf-8")
