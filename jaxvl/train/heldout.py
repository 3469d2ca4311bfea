# SPDX-License-Identifier: Apache-2.0
"""A held-out set of a training run: a model's answers, greedy and sampled, what they are worth to
each of the run's rewards, and what guessing gives."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxvl.config import Config, Eval, Reward, SFTConfig
from jaxvl.data.example import Example
from jaxvl.distributed import multihost
from jaxvl.eval.reporting import stats, tables
from jaxvl.eval.reporting.stats import Estimate
from jaxvl.rewards.columns import AskedColumns, inputs
from jaxvl.rewards.mix import TrainerState, score

if TYPE_CHECKING:
    from jaxvl.vlm import VLM, Completion

_FORMAT = "think_format"  # the reward that says which replies are well formed, shown as "format"
_UNTRAINED = TrainerState()


@dataclasses.dataclass(frozen=True)
class Result:
    """Means of the run's rewards over N completions for each of Q questions, under their names
    ("format" for `think_format`), and of their weighted sum. `first` is the first reward."""

    rewards: dict[str, Estimate]
    total: Estimate
    first_in_format: Estimate | None  # among well-formed replies; None: the run has no such reward
    first_by_task: dict[str, Estimate]
    length: Estimate  # in tokens
    # The share of questions of which one of k completions has a point, for the powers of two up to
    # N; empty where the first reward has other values than 0 and 1.
    first_pass_at: dict[int, Estimate]
    # The mean of -log p of the tokens, in nats (none: there are no tokens): of replies drawn at
    # temperature 1 an estimate of the entropy.
    surprise: Estimate | None
    completions: Sequence[Sequence[Completion]] = dataclasses.field(repr=False)
    # What they say, and what each reward gave it (none: it does not apply).
    replies: list[dict[str, Any]] = dataclasses.field(repr=False)


def result(
    rewards: Sequence[Reward],
    questions: Sequence[AskedColumns],
    completions: Sequence[Sequence[Completion]],
    state: TrainerState = _UNTRAINED,
) -> Result:
    """What the rewards give to N completions of each of Q questions. They are asked as in training:
    what they raise, and judges that fail, end the run or not by the same settings.

    Process 0 asks them for all processes, who must all call it.
    """
    flat = [completion for row in completions for completion in row]
    found = None
    if jax.process_index() == 0:
        texts, ids = [each.text for each in flat], [list(each.tokens) for each in flat]
        scores = score(rewards, **inputs(questions, texts, ids), state=state)
        found = [scores.values_NK.tolist(), scores.total_N.tolist()]
    values_NK, total_N = map(np.array, multihost.all_gather_object(found)[0])
    group = len(completions[0])
    question_N = np.repeat(np.arange(len(questions)), group)
    task_N = np.repeat([question.example.task for question in questions], group)

    def mean(values_N: np.ndarray, chosen_N: np.ndarray | bool = True) -> Estimate:
        known_N = ~np.isnan(values_N) & chosen_N
        values, of = values_N[known_N], question_N[known_N]
        share = bool(((values >= 0) & (values <= 1)).all())
        return stats.rate(values, of) if share else stats.mean(values, of)

    names = [reward.name for reward in rewards]
    first_N = values_NK[:, 0]
    formed_N = values_NK[:, names.index(_FORMAT)] > 0 if _FORMAT in names else None
    shown = ["format" if n == _FORMAT and "format" not in names else n for n in names]
    tokens = [-logp for each in flat for logp in each.logprobs]
    of = question_N.tolist()
    token_of = [q for q, each in zip(of, flat, strict=True) for _ in each.logprobs]
    return Result(
        rewards={name: mean(values_NK[:, k]) for k, name in enumerate(shown)},
        total=mean(total_N),
        first_in_format=None if formed_N is None else mean(first_N, formed_N),
        first_by_task={
            task: mean(first_N, task_N == task) for task in sorted(set(task_N.tolist()))
        },
        length=stats.mean([len(each.tokens) for each in flat], of),
        first_pass_at=_pass_at(first_N.reshape(-1, group)),
        surprise=stats.mean(tokens, token_of) if tokens else None,
        completions=completions,
        replies=[
            _reply(questions[q].example, each, dict(zip(shown, values, strict=True)))
            for q, each, values in zip(of, flat, values_NK.tolist(), strict=True)
        ],
    )


def _reply(example: Example, said: Completion, rewards: dict[str, float]) -> dict[str, Any]:
    return {
        "id": example.id,
        "task": example.task,
        "answer": example.answer,
        "text": said.text,
        "tokens": len(said.tokens),
        "finish_reason": said.finish_reason,
        "rewards": {name: None if math.isnan(x) else x for name, x in rewards.items()},
    }


def _pass_at(values_QN: np.ndarray) -> dict[int, Estimate]:
    """pass@k for the powers of two up to N, of values that are 0 or 1."""
    if not np.isin(values_QN, (0, 1)).all():
        return {}
    Q, N = values_QN.shape
    found = {}
    for k in (2**i for i in range(N.bit_length())):
        each = [stats.pass_at_k(N, int(right), k) for right in values_QN.sum(1)]
        found[k] = stats.rate(each, range(Q))
    return found


@dataclasses.dataclass(frozen=True)
class Guessing:
    """What needs no image: a random choice, and the best constant answer of each task."""

    chance: Estimate
    majority: Estimate


def guessing(examples: Sequence[Example]) -> Guessing | None:
    """Chance and majority of questions with choices; None where a question has none.

    The majority answer of a task is the most frequent position among the choices or the most
    frequent answer, whichever is right more often.
    """
    if not all(example.answer in example.choices for example in examples):
        return None
    count = len(examples)
    chance = sum(1 / len(example.choices) for example in examples)
    right = 0
    for task in {example.task for example in examples}:
        of_task = [example for example in examples if example.task == task]
        answers = Counter(example.answer for example in of_task)
        places = Counter(example.choices.index(example.answer) for example in of_task)
        right += max(answers.most_common(1)[0][1], places.most_common(1)[0][1])
    p = chance / count
    majority = right / count
    best = Estimate(majority, *stats.wilson(majority, count), count)
    return Guessing(Estimate(p, p, p, count), best)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One model on one set."""

    greedy: Result
    sampled: Result

    def figures(self) -> dict[str, Any]:
        """All but the completions, as eval.json has it."""
        found = dataclasses.asdict(self)
        for result in found.values():
            del result["completions"], result["replies"]
        return found

    def replies(self) -> Iterator[dict[str, Any]]:
        """Every reply with what it is worth, and whether it is "greedy" or "sampled"."""
        for how, result in (("greedy", self.greedy), ("sampled", self.sampled)):
            for reply in result.replies:
                yield {"answers": how, **reply}

    def metrics(self) -> dict[str, float]:
        """The figures as run metrics: eval_<name>/greedy and eval_<name>/sampled of each reward,
        eval_reward/.. of their weighted sum. One that applies to no reply is absent."""
        found = {}
        for how, result in (("greedy", self.greedy), ("sampled", self.sampled)):
            for name, estimate in ({"reward": result.total} | result.rewards).items():
                if estimate.value is not None:
                    found[f"eval_{name}/{how}"] = estimate.value
        return found


def evaluate(
    vlm: VLM,
    examples: Sequence[Example],
    cfg: Eval,
    template: Any,
    max_new_tokens: int,
    rewards: Sequence[Reward],
    state: TrainerState = _UNTRAINED,
) -> Evaluation:
    """Greedy answers and `cfg.samples` sampled ones (temperature 1) to every example, scored by
    `rewards`."""
    pixels = vlm.processor.with_pixels(cfg.min_pixels, cfg.max_pixels)
    vlm = dataclasses.replace(vlm, processor=pixels)
    questions = [AskedColumns.of(example, template(example), pixels) for example in examples]
    prompts = [question.prompt for question in questions]
    images = [list(example.images) for example in examples]

    def answer(n: int, temperature: float) -> Result:
        rows = vlm.generate(
            prompts,
            images,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=cfg.seed,
        )
        return result(rewards, questions, rows, state)

    return Evaluation(greedy=answer(1, 0.0), sampled=answer(cfg.samples, 1.0))


class HeldOut:
    """The held-out set of a run that has one, scored by the run's rewards."""

    def __init__(self, cfg: Config | SFTConfig, how: Eval, template: Any):
        self.cfg, self.how, self.template = cfg, how, template
        self.examples = list(how.source.load())

    def due(self, step: int) -> bool:
        """Whether it is answered after this step, beside the ends of the run."""
        return self.how.every > 0 and step % self.how.every == 0

    def evaluate(self, vlm: VLM, when: str, step: int) -> Evaluation:
        """It is answered by `vlm`, which is said."""
        cfg = self.cfg
        if jax.process_index() == 0:
            print(f"answering {len(self.examples)} held-out questions {when}", flush=True)
        how = self.template, cfg.sampling.max_new_tokens, cfg.rewards
        state = TrainerState(step, cfg.run.steps)
        return evaluate(vlm, self.examples, self.how, *how, state)

    def write(self, before: Evaluation, after: Evaluation, **more: Any) -> None:
        """eval.json, with what else there is to say, eval_replies.jsonl, and the table on the
        console."""
        shown = table(self.examples, before, after)
        found = {"before": before.figures(), "after": after.figures(), **shown}
        text = json.dumps(found | more, indent=2)
        file = Path(self.cfg.run.dir) / "eval.json"
        file.write_text(text + "\n", encoding="utf-8")
        lines = [{"model": "before", **line} for line in before.replies()]
        lines += [{"model": "after", **line} for line in after.replies()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file.with_name("eval_replies.jsonl").write_text(text, encoding="utf-8")
        tables.show(shown)


def table(
    examples: Sequence[Example], before: Evaluation | None, after: Evaluation
) -> dict[str, Any]:
    """{"title", "columns", "rows"} of before and after: a column for each reward; for the first
    one also its mean among well-formed replies, where the run has a reward for the form, and by
    task; and beside that what guessing gives."""
    names, tasks = list(after.greedy.rewards), list(after.greedy.first_by_task)
    formed = after.greedy.first_in_format is not None
    inside = [f"{names[0]} in format", "in format"] if formed else []
    rows = []
    for name, evaluation in (("before", before), ("after", after)):
        if evaluation is None:
            continue
        for how in ("greedy", "sampled"):
            result = getattr(evaluation, how)
            row = [name, how, *(str(estimate) for estimate in result.rewards.values())]
            if formed:
                row += [str(result.first_in_format), result.first_in_format.count]
            by_task = (result.first_by_task[task].value for task in tasks)
            rows.append(row + ["-" if value is None else f"{value:.3f}" for value in by_task])
    columns = ["model", "answers", *names, *inside, *tasks]
    guess = guessing(examples)
    if guess is not None:
        rest = [""] * (len(columns) - 3)
        rows.append(["chance", "", f"{guess.chance.value:.3f}", *rest])
        rows.append(["majority answer", "", str(guess.majority), *rest])
    title = f"Held-out questions: {len(examples)}; intervals are 95%"
    return {"title": title, "columns": columns, "rows": rows}
