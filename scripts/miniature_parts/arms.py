# SPDX-License-Identifier: Apache-2.0
"""The parts of the experiment and their arms: which stages a model goes through, how it is asked.

docs/miniature.md says what each part is for and what was expected of it.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

TRACES = ("none", "form", "short", "hesitant", "self")
KINDS = ("letter", "number", "box", "expression", "sentence")  # of answers, in part d


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is. A stage's checkpoints are its doses, so a smaller dose divides a
    larger one."""

    rl: int = 32  # steps of reinforcement learning after a stage before it, or of a variant
    rl_alone: int = 96  # steps that see as many questions as the largest chain
    low: int = 4  # steps of fine-tuning: low dose, dose, and as many questions as the chain
    dose: int = 16
    sft_alone: int = 24
    own: int = 520  # questions that the base answers for its own traces
    questions: int = 24  # with `samples` replies each
    samples: int = 64
    greedy: int = 96  # questions with a greedy reply


TINY = Sizes(1, 2, 1, 1, 1, 32, 2, 1, 2)  # to see that everything runs


@dataclasses.dataclass(frozen=True)
class Stage:
    """Training from the stage before it: `how` is a kind of trace, a model to be taught ("able",
    "instruct", "kinds-right", "kinds", "refuser"), or a variant of the RL run, of whose `of` steps
    the first `steps` are taken."""

    kind: Literal["sft", "rl"]
    how: str
    steps: int
    of: int


@dataclasses.dataclass(frozen=True)
class Arm:
    """A model, by the stages that it goes through from the base, and how it is asked."""

    name: str
    stages: tuple[Stage, ...]
    asked: str = "plain"


def part_a(sizes: Sizes) -> list[Arm]:
    after = Stage("rl", "plain", sizes.rl, sizes.rl)
    arms = [Arm("base", ())]
    for steps in (sizes.rl, sizes.rl_alone):
        name = "RL alone" if steps == sizes.rl_alone else "RL alone, first steps"
        arms.append(Arm(name, (Stage("rl", "plain", steps, sizes.rl_alone),)))
    for trace in TRACES:
        dose = Stage("sft", trace, sizes.dose, sizes.sft_alone)
        arms += [Arm(f"SFT {trace}", (dose,)), Arm(f"SFT {trace}, RL", (dose, after))]
    return arms


def part_dose(sizes: Sizes) -> list[Arm]:
    after = Stage("rl", "plain", sizes.rl, sizes.rl)
    arms = []
    for trace in TRACES:
        low = Stage("sft", trace, sizes.low, sizes.sft_alone)
        whole = Stage("sft", trace, sizes.sft_alone, sizes.sft_alone)
        arms += [Arm(f"SFT {trace}, low", (low,)), Arm(f"SFT {trace}, low, RL", (low, after))]
        arms.append(Arm(f"SFT {trace}, all the data", (whole,)))
    return arms


def _variants(sizes: Sizes, names: dict[str, str]) -> list[Arm]:
    """RL from the base without a change, and with each of the named ones."""
    arms = [Arm("RL", (Stage("rl", "plain", sizes.rl, sizes.rl_alone),))]
    return arms + [
        Arm(name, (Stage("rl", how, sizes.rl, sizes.rl),)) for name, how in names.items()
    ]


def part_b(sizes: Sizes) -> list[Arm]:
    return _variants(sizes, {"0.001 a token": "length-0.001", "0.02 a token": "length-0.02"})


def part_c(sizes: Sizes) -> list[Arm]:
    return _variants(sizes, {"tower frozen": "tower-frozen", "text frozen": "text-frozen"})


def part_e(sizes: Sizes) -> list[Arm]:
    return _variants(sizes, {"beta 0.04": "kl-0.04", "beta 0.2": "kl-0.2"})


def part_f(sizes: Sizes) -> list[Arm]:
    return _variants(sizes, {f"group {n}": f"group-{n}" for n in (2, 4, 16)})


def part_g(sizes: Sizes) -> list[Arm]:
    return _variants(sizes, {f"{n} questions": f"first-{n}" for n in (50, 200, 512)})


def part_h(sizes: Sizes) -> list[Arm]:
    hesitant = Stage("sft", "hesitant", sizes.dose, sizes.sft_alone)
    return [
        Arm("SFT hesitant", (hesitant,)),
        Arm("RL", (hesitant, Stage("rl", "plain", sizes.rl, sizes.rl))),
        Arm("RL, banned", (hesitant, Stage("rl", "no-banned", sizes.rl, sizes.rl))),
    ]


def part_skill(sizes: Sizes) -> list[Arm]:
    arms = [Arm("base", ()), *_variants(sizes, {})]
    for model in ("able", "instruct"):
        made = Stage("sft", model, sizes.dose, sizes.dose)
        after = Stage("rl", "plain", sizes.rl, sizes.rl)
        arms += [Arm(model, (made,)), Arm(f"{model}, RL", (made, after))]
    return arms


def part_i(sizes: Sizes) -> list[Arm]:
    alone = (Stage("rl", "plain", sizes.rl, sizes.rl_alone),)
    changes = {"rewards shuffled": "rewards-shuffled", "images shuffled": "images-shuffled"}
    arms = [Arm("base", ()), *_variants(sizes, changes)]
    arms.append(Arm("RL, asked with shuffled images", alone, "images"))
    arms.append(Arm("RL, asked with misleading captions", alone, "captions"))
    misled = (Stage("rl", "captions", sizes.rl, sizes.rl),)
    arms.append(Arm("captions in training, asked with them", misled, "captions"))
    arms.append(Arm("captions in training, asked without", misled))
    return arms


def part_d(sizes: Sizes) -> list[Arm]:
    steps = 2 * sizes.rl
    taught = Stage("sft", "kinds-right", steps, steps), Stage("sft", "kinds", sizes.rl, sizes.rl)
    names = {"mixed": "mixed", "biased judge": "judge"}
    names |= {f"{kind} alone": kind for kind in KINDS}
    return [Arm("taught base", taught, "kinds")] + [
        Arm(name, (*taught, Stage("rl", f"kinds-{how}", steps, steps)), "kinds")
        for name, how in names.items()
    ]


def part_j(sizes: Sizes) -> list[Arm]:
    steps = 3 * sizes.rl
    refuser = Stage("sft", "refuser", steps, steps)
    return [Arm("refuser", (refuser,), "requests")] + [
        Arm(how, (refuser, Stage("rl", how, steps, steps)), "requests")
        for how in ("two-sided", "one-sided")
    ]


PARTS = {
    "a": part_a,
    "b": part_b,
    "i": part_i,
    "dose": part_dose,
    "f": part_f,
    "g": part_g,
    "c": part_c,
    "e": part_e,
    "h": part_h,
    "skill": part_skill,
    "d": part_d,
    "j": part_j,
}
TITLES = {
    "a": "When does SFT hurt RL?",
    "dose": "A low dose of SFT, and SFT alone",
    "b": "The length reward",
    "c": "Freezing",
    "d": "Mixed and single rewards",
    "e": "KL",
    "f": "Group size",
    "g": "Sample size",
    "h": "Reflection",
    "i": "Controls",
    "j": "Oversensitivity",
    "skill": "A second level of skill, and an instruct sibling",
}


def stages_of(arms: list[Arm]) -> list[tuple[Stage, ...]]:
    """The stages of every run that arms need, each once: a run with several doses is one."""
    found: dict[tuple, tuple[Stage, ...]] = {}
    for arm in arms:
        for n in range(1, len(arm.stages) + 1):
            *before, last = arm.stages[:n]
            whole = dataclasses.replace(last, steps=last.of)
            found.setdefault((*before, whole), (*before, whole))
    return list(found.values())
