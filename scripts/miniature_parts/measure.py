# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model: pass@k, entropy, greedy accuracy, form, length and hesitation."""

from __future__ import annotations

import dataclasses
import json
import time

import jax

import jaxvl
from jaxvl.config import Eval
from jaxvl.train.heldout import evaluate
from miniature_parts.arms import Arm
from miniature_parts.runs import REWARDS, TOKENS, Place, source_of

QUESTIONS = 0  # the seed of the held-out questions, the same for all models


def measure(place: Place, arm: Arm) -> None:
    """Writes what is measured of an arm's model, and its replies, where that is not there."""
    file = place.results(arm)
    if file.exists():
        return
    print(f"measuring {arm.name}, seed {place.seed}", flush=True)
    start = time.monotonic()
    sizes = place.sizes
    vlm = jaxvl.load(place.model(arm.stages), dtype="float32")

    def answers(count: int, samples: int):
        source, template = source_of(arm.asked, QUESTIONS, count)
        how = Eval(source, samples=samples)
        return evaluate(vlm, list(source.load()), how, template, TOKENS, REWARDS)

    sampled = answers(sizes.questions, sizes.samples).sampled
    greedy = answers(sizes.greedy, 1).greedy
    hesitant = [" no," in reply["text"] for reply in sampled.replies]
    found = {
        "pass_at": {str(k): each.value for k, each in sampled.first_pass_at.items()},
        "entropy": sampled.surprise.value,
        "length": sampled.length.value,
        "format": sampled.rewards["format"].value,
        "hesitation": sum(hesitant) / len(hesitant),
        "greedy": greedy.rewards["accuracy"].value,
        "by_task": {task: each.value for task, each in greedy.first_by_task.items()},
        "sizes": dataclasses.asdict(sizes),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    replies = [{"how": "sampled", **r} for r in sampled.replies]
    replies += [{"how": "greedy", **r} for r in greedy.replies]
    text = "".join(json.dumps(reply, ensure_ascii=False) + "\n" for reply in replies)
    file.with_suffix(".replies.jsonl").write_text(text, encoding="utf-8")
    jax.clear_caches()
    found["seconds"] = round(time.monotonic() - start)
    half = file.with_suffix(".half")
    half.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    half.rename(file)
