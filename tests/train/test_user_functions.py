# SPDX-License-Identifier: Apache-2.0
"""What a user's own functions raise ends in one message that names the field and the example."""

import dataclasses
from pathlib import Path

import pytest

import jaxvl
from jaxvl import config
from jaxvl.data.example import BadRow
from jaxvl.errors import UserError
from jaxvl.train.prompts import PromptStream
from jaxvl.train.rollouts import OWN

CONFIGS = Path(__file__).parents[2] / "configs"


def broken(example):
    raise KeyError("nope")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"template": broken}, r"data.template raised KeyError: 'nope' \(test_user_functions.py:"),
        ({"template": lambda example: None}, "data.template gave a NoneType for example"),
        ({"template": lambda example: 3}, "data.template gave a int for example"),
        ({"template": lambda example: 1 / 0}, "data.template raised ZeroDivisionError"),
        ({"check": broken}, "data.check raised KeyError"),
        ({"check": lambda example: example.nothing}, "data.check raised AttributeError"),
    ],
)
def test_a_function_of_the_data_that_raises_is_told(vlm, tmp_path, fields, words):
    cfg = config.load(CONFIGS / "quickstart.py", [f"run.dir={tmp_path}", "data.source.size=8"])
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, workers=0, **fields))
    with pytest.raises(UserError, match=words):
        next(PromptStream.of(cfg, vlm, cfg.grpo.prompts))


@pytest.mark.parametrize("name", ["train", "sft"])
def test_swapped_values_of_a_config_are_told_before_anything_is_made_of_them(name):
    kinds = {
        "train": (config.Config, "quickstart.py"),
        "sft": (config.SFTConfig, "quickstart_sft.py"),
    }
    kind, file = kinds[name]
    cfg = config.load(CONFIGS / file, [], kind)
    cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, dir=3, steps="runs/mine"))
    with pytest.raises(UserError, match=r"run.dir: expected .*found 3"):
        getattr(jaxvl, name)(cfg)


def test_a_target_that_raises_is_told(vlm, tmp_path):
    cfg = config.load(
        CONFIGS / "quickstart_sft.py",
        [f"run.dir={tmp_path}", "data.source.size=8", "data.workers=0"],
        config.SFTConfig,
    )
    cfg = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, target=broken))
    with pytest.raises(UserError, match="sft.target raised KeyError: 'nope'"):
        next(PromptStream.of(cfg, vlm, cfg.sft.rows))


def test_a_check_may_still_refuse_a_row(vlm, tmp_path):
    def check(example):
        raise BadRow("mine", "not this one")

    cfg = config.load(CONFIGS / "quickstart.py", [f"run.dir={tmp_path}", "data.source.size=8"])
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, workers=0, check=check))
    with pytest.raises(UserError, match="mine"):
        next(PromptStream.of(cfg, vlm, cfg.grpo.prompts))


@pytest.mark.parametrize(
    "name",
    ["step", "loss", "grad_norm", "updates", "time/reward", "perf/compiles", "eval_x/greedy", "kl"],
)
def test_names_of_the_run_are_its_own(name):
    assert OWN.match(name)


@pytest.mark.parametrize("name", ["mine", "losses", "steps", "judge/cost", "verify/refused", "klm"])
def test_other_names_are_free(name):
    assert not OWN.match(name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((blank, "no target") for blank in ("", " ", "\n\t", "\u3000")),
        ("it is 7<|im_end|>\n<|im_start|>user\nnext", "special token in the text"),
        ("<|image_pad|>", "special token in the text"),
    ],
)
def test_a_target_that_would_teach_something_else_is_a_bad_row(vlm, tmp_path, text, reason):
    """To say nothing, or to go on behind the end of the reply."""
    cfg = config.load(
        CONFIGS / "quickstart_sft.py",
        [f"run.dir={tmp_path}", "data.source.size=8", "data.workers=0"],
        config.SFTConfig,
    )
    sft = dataclasses.replace(cfg.sft, target=lambda example: text)
    with pytest.raises(UserError, match=f"none of the first 8 examples can be used: 8 {reason}"):
        PromptStream.of(dataclasses.replace(cfg, sft=sft), vlm, cfg.sft.rows)
