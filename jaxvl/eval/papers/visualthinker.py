# SPDX-License-Identifier: Apache-2.0
"""VisualThinker-R1-Zero (arXiv 2503.05132): which run is which row, and what its figures draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxvl.data.reflection import WORDS
from jaxvl.eval.papers.curves import ACCURACY, LENGTH, Arm, Figure, Panel, why_no_run
from jaxvl.eval.papers.given import PaperInput
from jaxvl.eval.papers.tables import NOT_RUN, Beside, Cell, Unprinted
from jaxvl.eval.reporting import published

_R1 = ("visualthinker_curve", "visualthinker")
_SFT = ("visualthinker_sft_curve", "visualthinker_sft")
_INSTRUCT, _BASE = ("Qwen2-VL-2B-Instruct",), ("Qwen2-VL-2B",)
_RL = ("visualthinker_instruct",)
_DIRECT = ("visualthinker_instruct_direct",)
_NO_TOWER = ("visualthinker_instruct_vision_frozen",)
_NO_LLM = ("visualthinker_instruct_llm_frozen",)
_LONG = ("visualthinker_length",)
NAMES = (*_R1, *_SFT, *_INSTRUCT, *_BASE, *_RL, *_DIRECT, *_NO_TOWER, *_NO_LLM, *_LONG)

_CV = tuple(
    Cell("cv_bench", figure) for figure in ("accuracy", "Count", "Relation", "Depth", "Distance")
)
_BLINK = tuple(
    Cell("blink_spatial", figure)
    for figure in ("Relative_Depth", "Spatial_Relation", "visualthinker")
)
# How models are asked: a base, an instruct model, and one that learnt answers alone.
_AS_BASE, _AS_INSTRUCT = "visualthinker-base", "visualthinker-instruct"
_AS_DIRECT = "visualthinker-instruct-direct"
TABLES = (
    Beside(
        "Table 3: base, SFT and GRPO",
        published.VISUALTHINKER_3,
        (*_CV, *_BLINK, Cell("vsr", "accuracy")),
        (_BASE, _SFT[::-1], _R1[::-1]),
        (_AS_BASE, _AS_DIRECT, _AS_BASE),
        others=True,
        bars=True,
    ),
    Beside(
        "Table 4: RL from the instruct model",
        published.VISUALTHINKER_4,
        _CV,
        (_INSTRUCT, _RL),
        (_AS_INSTRUCT, _AS_INSTRUCT),
        unprinted=(Unprinted("+ RL, asked for the answer alone", _DIRECT, _AS_DIRECT),),
    ),
    Beside(
        "Table 5: parts frozen",
        published.VISUALTHINKER_5,
        _CV,
        (_RL, _NO_TOWER, _NO_LLM),
        (_AS_INSTRUCT,) * 3,
        bars=True,
    ),
)

_ON_CV = Panel(
    "Accuracy",
    ACCURACY,
    share=True,
    levels=(("base", 31.38), ("instruct", 55.64)),
)
_TOKENS = Panel("Mean length of completions, tokens", LENGTH)
FIGURES = (
    Figure(
        "Figure 1: accuracy and length over steps",
        "The paper, read off: accuracy on CV-Bench from about 20 to 60%, and length from 100 to 300"
        " tokens, over 1,500 steps; a dip at the start, then both rise.",
        (Arm("GRPO", _R1),),
        (_ON_CV, _TOKENS),
        others=True,
    ),
    Figure(
        "Figure 2: RL against SFT",
        "The paper: accuracy on CV-Bench over 1,500 steps of both, with the base and the instruct "
        "model as levels; RL ends above SFT.",
        (Arm("GRPO", _R1), Arm("SFT", _SFT)),
        (_ON_CV,),
        others=True,
    ),
    Figure(
        "Figure 4: lengths with parts frozen",
        "The paper, read off: from 80 to 50 tokens over 400 steps of the instruct model, whichever "
        "part is frozen.",
        (
            Arm("nothing frozen", _RL),
            Arm("vision encoder frozen", _NO_TOWER),
            Arm("LLM frozen", _NO_LLM),
        ),
        (_TOKENS,),
    ),
    Figure(
        "Figure 5: a reward for length",
        "The paper, read off: 100 to 220 tokens over 600 steps, and accuracy does not follow.",
        (Arm("length reward", _LONG),),
        (
            _ON_CV,
            _TOKENS,
            Panel("Length reward, mean", ("rewards/length/mean",)),
            Panel("Hacking: repetitive completions", ("audit/repetition",), share=True),
            Panel("Hacking: cut off completions", ("completions/clipped_ratio",), share=True),
        ),
    ),
    Figure(
        "Words of reflection over steps",
        "The authors' list, on their repository; no figures are published. Share of a step's "
        "completions with the word, anywhere in it.",
        (Arm("GRPO", _R1),),
        (
            Panel(
                "Completions with the word",
                tuple(f"words/{word}" for word in WORDS["VisualThinker"]),
                each=True,
                share=True,
            ),
        ),
        others=True,
    ),
)
# Title, the run whose last step has it, and what it is an example of.
EXAMPLES = (
    ("Figure 3: a trivial answer of the instruct model", _RL, "short"),
    ("Figure 6: a long answer under the reward for length", _LONG, "long"),
)

# Table 2: the setting, the paper's value, and the field of a run's config.
_SETTINGS = (
    ("policy", "Qwen2-VL-2B", "model.path"),
    ("prompts a step", "8", "grpo.prompts"),
    ("completions of a prompt", "8", "grpo.group"),
    ("learning rate", "1e-6", "optim.lr"),
    ("weight of the KL", "0.04", "grpo.beta"),
    ("temperature", "1.0", "sampling.temperature"),
    ("tokens of a completion", "700", "sampling.max_new_tokens"),
    ("steps", "1500", "run.steps"),
)


def sections(given: Mapping[str, PaperInput]) -> list[dict[str, Any]]:
    """Table 2: the settings of the runs that are given."""
    names = [name for name in _R1[::-1] if name in given and given[name].run]
    configs = [given[name].curves["config"] for name in names]
    rows = [
        [label, paper, *([str(config.get(field, "-")) for config in configs] or [NOT_RUN])]
        for label, paper, field in _SETTINGS
    ]
    missing = [] if names else [f"GRPO: {why_no_run(_R1[::-1], given)}"]
    return [
        {
            "title": "Table 2: hyper-parameters",
            "text": "The paper's, and those in the run's config.json.",
            "tables": [{"columns": ["setting", "the paper", *(names or ["ours"])], "rows": rows}],
            "missing": missing,
        }
    ]
