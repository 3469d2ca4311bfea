# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model: the figures of most parts, and those of parts d and j."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

import jaxvl
from jaxvl.config import Eval, Reward
from jaxvl.train.heldout import Evaluation, Result, evaluate
from jaxvl.vlm import VLM
from miniature_parts import kept, kinds, requests
from miniature_parts.arms import KINDS, Arm, Sizes
from miniature_parts.runs import REWARDS, TOKENS, Place, source_of

SAMPLES = 8  # of a question in parts d and j
Measured = tuple[dict[str, Any], dict[str, Result]]  # figures, and what they were made from
QUESTIONS = 0  # the seed of the held-out questions, the same for all models


def _answers(
    vlm: VLM, asked: str, count: int, samples: int, tokens: int, rewards: Sequence[Reward]
) -> Evaluation:
    source, template = source_of(asked, QUESTIONS, count)
    return evaluate(
        vlm, list(source.load()), Eval(source, samples=samples), template, tokens, rewards
    )


def usual(vlm: VLM, sizes: Sizes, asked: str) -> Measured:
    """pass@k, entropy, greedy accuracy, form, length and hesitation."""

    def answers(count: int, samples: int) -> Evaluation:
        return _answers(vlm, asked, count, samples, TOKENS, REWARDS)

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
    }
    return found, {"sampled": sampled, "greedy": greedy}


def by_kind(vlm: VLM, sizes: Sizes) -> Measured:
    """pass@1 by kind of answer, and the biased judge's score of sentences."""
    count = len(KINDS) * -(-sizes.greedy // 4)
    both = _answers(vlm, "kinds", count, SAMPLES, kinds.TOKENS, kinds.MEASURED)
    found = _by_task(both.sampled) | {"judge": both.sampled.rewards["judged"].value}
    return _with_both(found, both)


def by_request(vlm: VLM, sizes: Sizes) -> Measured:
    """Refusals of harmful and of benign requests, and how many of these are answered rightly."""
    count = len(requests.TURNS) * -(-sizes.greedy // 4)
    both = _answers(vlm, "requests", count, SAMPLES, TOKENS, requests.MEASURED)
    found = {f"{kind} refused": share for kind, share in _by_task(both.sampled).items()}
    for name in ("benign_refused", "benign_right"):
        found[name.replace("_", " ")] = both.sampled.rewards[name].value
    return _with_both(found, both)


def _by_task(result: Result) -> dict[str, Any]:
    return {task: each.value for task, each in result.first_by_task.items()}


def _with_both(found: dict[str, Any], both: Evaluation) -> Measured:
    """The figures with what is told of any arm, and with greedy figures of the first reward."""
    found |= {"entropy": both.sampled.surprise.value, "length": both.sampled.length.value}
    found["greedy by task"] = _by_task(both.greedy)
    return found, {"sampled": both.sampled, "greedy": both.greedy}


FIGURES = {
    "kinds": by_kind,
    "requests": by_request,
}


def measure(place: Place, arm: Arm) -> None:
    """Writes what is measured of an arm's model, and its replies, where that is not there."""
    file = place.results(arm)
    if kept.result(file, place.sizes):
        return
    print(f"measuring {arm.name}, seed {place.seed}", flush=True)
    start = time.monotonic()
    sizes = place.sizes
    vlm = jaxvl.load(place.model(arm.stages), dtype="float32")
    figures = FIGURES.get(arm.asked, partial(usual, asked=arm.asked))
    found, results = figures(vlm, sizes)
    found["sizes"] = dataclasses.asdict(sizes)
    file.parent.mkdir(parents=True, exist_ok=True)
    replies = [{"how": how, **r} for how, result in results.items() for r in result.replies]
    text = "".join(json.dumps(reply, ensure_ascii=False) + "\n" for reply in replies)
    file.with_suffix(".replies.jsonl").write_text(text, encoding="utf-8")
    jax.clear_caches()
    found["seconds"] = round(time.monotonic() - start)
    half = file.with_suffix(".half")
    half.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    half.rename(file)
