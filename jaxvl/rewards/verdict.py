# SPDX-License-Identifier: Apache-2.0
"""`verify`: is the answer of a completion right, by rules, for a kind of answer.

Total: any text gives a reward in [0, 1] and a reason, in bounded time. Pure: the same arguments
give the same verdict. Model text is never evaluated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxvl.errors import UserError
from jaxvl.rewards import extract, visualthinker
from jaxvl.rewards.kinds import box, choice, math, number, phrase
from jaxvl.rewards.reasons import (
    MATCH,
    MISMATCH,
    NO_ANSWER,
    REFUSED,
    SEVERAL,
    TOO_LONG,
    UNREAD,
)

_UNCLEAR = frozenset((UNREAD, REFUSED, TOO_LONG, NO_ANSWER))
KindJudge = Callable[[str, str, list[str]], tuple[float, str, str]]
KINDS: dict[str, KindJudge] = {
    "number": number.judge,
    "mcq": choice.judge,
    "math": math.judge,
    "bbox": box.judge,
    "text": phrase.judge,
}
MODES = ("strict", "lenient", "visualthinker")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an answer is worth, in [0, 1]; the text that was judged; its normal form, equal for
    answers that say the same in the same words; and why ("" texts where there is none)."""

    reward: float
    extracted: str
    canonical: str
    reason: str


def verify(
    kind: str,
    completion: str | bytes,
    gold: Any,
    choices: Sequence[str] | None = None,
    mode: str = "strict",
) -> Verdict:
    r"""The verdict on `completion`, whose right answer is `gold`.

    `kind` is "number", "mcq", "math", "bbox" or "text". `gold` is text, or what `str` makes text of
    (a number, a box as a list). `choices` are the texts of the options A, B, ..; the gold of an
    "mcq" is a letter, several letters ("B, D") or the text of an option.

    Modes: "strict" judges the content of the `<answer>` block of what follows `</think>`, and
    without a valid one the reward is 0. "lenient", for evaluation, takes the last `\boxed{}`, the
    last "the answer is .." or the last sentence where there is no valid block. "visualthinker" is
    the accuracy of that paper's code (its whole-completion fallback included) and ignores `kind`.
    """
    if kind not in KINDS or mode not in MODES:
        field, value, known = ("kind", kind, KINDS) if kind not in KINDS else ("mode", mode, MODES)
        raise UserError(f"verify: {field} is {value!r}; expected one of {', '.join(known)}")
    text, gold = _text(completion), _text(gold)
    if mode == "visualthinker":
        answer = visualthinker.answer_text(text)
        right = visualthinker.accurate(text, f"<answer>{gold}</answer>")
        return Verdict(float(right), answer, answer, MATCH if right else MISMATCH)
    judge = KINDS[kind]
    gold = extract.normalize(gold).strip()
    choices = [extract.normalize(str(choice)).strip() for choice in choices or ()]
    text = extract.reply(text)
    found = extract.blocks(text)
    if found is not None:
        return _agreed([_judged(judge, answer, gold, choices) for answer in found[:4]], len(found))
    if mode == "strict":
        return Verdict(0.0, "", "", NO_ANSWER)
    return _lenient(kind, text, gold, choices)


def _lenient(kind: str, text: str, gold: str, choices: list[str]) -> Verdict:
    """The verdict on a reply without a valid block: that on the first place with an answer."""
    verdict = Verdict(0.0, "", "", NO_ANSWER)
    places = extract.places(text, kind)
    for at, answers in enumerate(places):
        firm = kind == "mcq" and at == 0
        judge = functools.partial(choice.judge, firm=True) if firm else KINDS[kind]
        verdicts = [_judged(judge, answer, gold, choices) for answer in answers]
        # Two answers in what is declared, or in the last place, are an answer: a hedge.
        hedge = at == len(places) - 1 or (at < 2 and kind != "mcq")
        unclear = _UNCLEAR if hedge else _UNCLEAR | {SEVERAL}
        read = [one for one in verdicts if one.reason not in unclear]
        said = {(one.reward, one.reason, one.canonical * (kind == "mcq")) for one in read}
        if read:
            return read[-1] if len(said) == 1 else Verdict(0.0, read[-1].extracted, "", SEVERAL)
        verdict = verdicts[-1] if verdicts else verdict
    return verdict


def gold_problem(kind: str, gold: Any, choices: Sequence[str] | None = None) -> str:
    """Why nothing can be verified against `gold` ("" where it can): the reason for which the gold
    itself, given as the answer, is not a match. For use when data is loaded."""
    verdict = verify(kind, f"<answer>{_text(gold)}</answer>", gold, choices)
    return "" if verdict.reward == 1.0 else verdict.reason


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _judged(judge: KindJudge, answer: str, gold: str, choices: list[str]) -> Verdict:
    """The verdict on one answer text, as it stands in the completion."""
    shown = answer[: extract.LIMIT]
    if len(answer) > extract.LIMIT:
        return Verdict(0.0, shown, "", TOO_LONG)
    answer, gold = extract.normalize(answer), extract.unwrap(gold)
    plain = extract.unwrap(answer)
    if not plain:
        return Verdict(0.0, shown, "", NO_ANSWER)
    reward, canonical, reason = judge(plain, gold, choices)
    if reason == UNREAD:  # "the answer is B because .." says what the B is
        reward, canonical, reason = judge(extract.unwrap(answer, prefix=False), gold, choices)
    return Verdict(reward, shown, canonical, reason)


def _agreed(verdicts: list[Verdict], count: int) -> Verdict:
    """One verdict for `count` different blocks: they count where they say the same."""
    canonical = {verdict.canonical for verdict in verdicts}
    if count == 1 or (count == len(verdicts) and len(canonical) == 1 and "" not in canonical):
        return verdicts[0]
    return Verdict(0.0, verdicts[-1].extracted, "", SEVERAL)
