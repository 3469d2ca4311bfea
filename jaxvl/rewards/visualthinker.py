# SPDX-License-Identifier: Apache-2.0
"""The rewards of VisualThinker-R1-Zero (arXiv 2503.05132), as its public code computes them (of
`accuracy` with `literal`).

Its total is the plain sum of `accuracy` and `think_format`; `length` is the ablation of Sec. 5.3.
Every search here is linear in the length of a completion.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxvl.data import gold
from jaxvl.errors import UserError
from jaxvl.rewards import completion_text, extract, pool
from jaxvl.rewards.columns import rows_of
from jaxvl.rewards.kinds import math
from jaxvl.rewards.reasons import MISMATCH

QWEN2_SPECIAL = range(151643, 151657)  # <|endoftext|> .. <|video_pad|>

_LETTER = re.compile(r"(?:^|\s|\[|\()([A-H])(?:\s|\]|\)|$)")
_BETWEEN = re.compile(r"</think>\s*<answer>")
# Where math-verify can find anything: LaTeX, or a number at the start, after a space or after "=".
_MATHEMATICS = re.compile(r"[\\$]|(?:^|[\s=])[^\s<]*\d")


def accuracy(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    literal: bool = False,
    **columns: Sequence[Any],
) -> list[float]:
    """1 where a completion gives the answer, else 0, for each completion.

    The gold text is the column `answer` put into answer tags, or, where a row has no answer, the
    column `solution` as it stands ("<answer>..</answer>"). A point is given for any of

    1. math-verify holds the whole completion and the whole gold text to be equal. It parses
       nothing in "<answer>3</answer>" (no space before the number), so words and plain numbers in
       tags are decided by step 2 alone; it matters for LaTeX. (Checked with 0.5.2, which the paper
       pinned, and 0.9.0: the same verdicts.)
    2. What the first tag pair on one line holds, stripped, is the same in both. A completion
       without tags is compared as a whole.
    3. The last stand-alone letter A to H of the completion's answer is the gold answer.

    The format is not asked for: "B" alone is as good as "<answer>B</answer>".

    The public code is this with `literal`. Without it the first rule credits no answer between tags
    whose value `verify` finds to differ from the gold's: math-verify rounds, so that 1.4142136 is
    the root of 2.
    """
    golds = [_gold_text(i, row) for i, row in enumerate(rows_of(columns, len(completions)))]
    return pool.map_threads(
        lambda completion, right: float(accurate(completion_text(completion), right, literal)),
        completions,
        golds,
        where=[bool(_MATHEMATICS.search(gold)) for gold in golds],  # of which a worker is asked
    )


def _gold_text(number: int, row: Mapping[str, Any]) -> str:
    answer, solution = gold.answer_of(row), row.get("solution")
    if answer:
        return f"<answer>{answer}</answer>"
    if solution is None or solution != solution or not str(solution).strip():
        raise UserError(f"accuracy: row {number} has neither a column `answer` nor `solution`")
    return str(solution)


def think_format(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    **columns: Sequence[Any],
) -> list[float]:
    r"""1 where the whole text is `<think>.*?</think>\s*<answer>.*?</answer>`, else 0.

    A prompt that ends with "<think>" has opened the tag for its completion.
    """
    rewards = []
    for prompt, completion in zip(prompts, completions, strict=True):
        opened = isinstance(prompt, str) and prompt.endswith("<think>")
        text = ("<think>" if opened else "") + completion_text(completion)
        rewards.append(float(_well_formed(text)))
    return rewards


def length(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    *,
    cap: int | None = None,
    special_ids: Collection[int] = QWEN2_SPECIAL,
    **columns: Sequence[Any],
) -> list[float]:
    """0.001 for each token of a completion that is not in `special_ids`, for at most `cap` tokens.

    The public code tokenizes the decoded text again, without a cap; the sampled tokens are counted
    here. Set the keywords with `functools.partial`.
    """
    counts = [sum(token not in special_ids for token in ids) for ids in completion_ids]
    return [0.001 * (count if cap is None else min(count, cap)) for count in counts]


def accurate(text: str, gold: str, literal: bool = True) -> bool:
    """The rule of `accuracy` for one completion; `gold` stands in its tags."""
    gold_answer, answer = answer_text(gold), answer_text(text)
    if answer == gold_answer:
        return True
    letters = _LETTER.findall(answer)
    if letters and letters[-1] == gold_answer:
        return True
    if not (_MATHEMATICS.search(gold) and pool.equal(gold, text, None) == "match"):
        return False
    return literal or answer == text.strip() or not _differ(answer, gold_answer)


def _differ(answer: str, gold_answer: str) -> bool:
    plain, right = (extract.unwrap(extract.normalize(each)) for each in (answer, gold_answer))
    return math.judge(plain, right, [])[2] == MISMATCH


def answer_text(text: str) -> str:
    """The stripped group of `<answer>(.*?)</answer>`, found without backtracking; else the text."""
    for line in text.split("\n"):
        start = line.find("<answer>")
        stop = line.find("</answer>", start + len("<answer>"))
        if start >= 0 and stop >= 0:
            return line[start + len("<answer>") : stop].strip()
    return text.strip()


def _well_formed(text: str) -> bool:
    """The full match of `think_format`, as two ends and a middle between them."""
    first, last = len("<think>"), len(text) - len("</answer>")
    ends = text.startswith("<think>") and text.endswith("</answer>")
    return ends and _BETWEEN.search(text, first, last) is not None
