# SPDX-License-Identifier: Apache-2.0
"""Overrides are parsed by type, wrong ones say what to do, and fields that disagree are refused."""

import dataclasses
import functools
import json
import subprocess
import sys

import pytest

from jaxvl import config as C
from jaxvl.config import fields
from jaxvl.config.validate import check_rows, check_share, validate
from jaxvl.errors import UserError

FILE = """
from __future__ import annotations
import dataclasses
from pathlib import Path
from jaxvl.config import *

@dataclasses.dataclass(frozen=True)
class Toy:
    count: int = 3
    where: Path | None = None
    def load(self):
        return []

def template(example):
    return example.question

def accuracy(prompts, completions, completion_ids, **columns):
    return [1.0] * len(completions)

def config():
    return Config(
        model=Model(path="m"),
        data=Data(source=Toy(), template=template),
        rewards=(Reward(accuracy), Reward(accuracy, 0.5, name="second")),
        run=Run(dir="out", steps=10),
    )
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "toy.py"
    file.write_text(FILE)
    return file


def test_overrides_are_parsed_by_the_annotation_of_their_field(path):
    cfg = C.load(
        path,
        [
            "grpo.group=4",
            "optim.lr=3e-7",
            "optim.schedule=cosine",
            "run.resume=true",
            "run.dir=a=b c",
            "model.max_pixels=1000",
            "model.dtype=bfloat16",
            "grpo.loss.epsilon_high=none",
            "data.prompt_buckets=(64, 128,)",
            "data.source.count=7",
            "data.source.where=/x",
            "rewards.1.weight=2",
        ],
    )
    assert (cfg.grpo.group, cfg.optim.lr, cfg.optim.schedule) == (4, 3e-7, "cosine")
    assert cfg.run.resume is True and cfg.run.dir == "a=b c"
    assert cfg.model.max_pixels == 1000 and cfg.grpo.loss.epsilon_high is None
    assert cfg.data.prompt_buckets == (64, 128)
    assert cfg.data.source.count == 7 and str(cfg.data.source.where) == "/x"
    assert [reward.weight for reward in cfg.rewards] == [1.0, 2.0]
    assert [reward.name for reward in cfg.rewards] == ["accuracy", "second"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("auto", "auto"),
        ("64", (64,)),
        ("64,128", (64, 128)),
        ("(64, 128)", (64, 128)),
        (" auto", "auto"),
    ],
)
def test_buckets_are_sizes_or_auto(path, word, expected):
    cfg = C.load(path, [f"data.prompt_buckets={word}", f"data.patch_buckets={word}"])
    assert (cfg.data.prompt_buckets, cfg.data.patch_buckets) == (expected, expected)
    written = list(expected) if isinstance(expected, tuple) else expected
    assert fields.to_json(cfg)["data"]["patch_buckets"] == written


@pytest.mark.parametrize("word", ["automatic", "", "128,64", "0", "none", "auto,64"])
def test_buckets_that_are_neither_are_refused(path, word):
    with pytest.raises(UserError, match="data.prompt_buckets"):
        C.load(path, [f"data.prompt_buckets={word}"])


@pytest.mark.parametrize(
    "words, loss",
    [
        (["grpo.loss=dapo"], C.Dapo()),
        (["grpo.loss=DrGrpo", "grpo.loss.epsilon=0.1"], C.DrGrpo(0.1)),
        (["grpo.loss=dr_grpo", "grpo.loss.delta=4"], C.DrGrpo(delta=4.0)),
        (["grpo.loss.epsilon=0.1", "grpo.loss=cispo"], C.Cispo()),
    ],
)
def test_a_loss_is_named_on_the_command_line_and_brings_its_own_fields(path, words, loss):
    cfg = C.load(path, words)
    assert cfg.grpo.loss == loss and type(cfg.grpo.loss) is type(loss)
    assert fields.to_json(cfg)["grpo"]["loss"]["type"] == type(loss).__name__
    with pytest.raises(UserError, match="no field `epsilon` in Cispo"):
        C.load(path, ["grpo.loss=cispo", "grpo.loss.epsilon=0.1"])


def test_a_part_that_is_not_there_is_put_in_by_its_name(path):
    cfg = C.load(path, ["grpo.adaptive_kl=adaptive_kl", "grpo.adaptive_kl.target=1e-3"])
    assert cfg.grpo.adaptive_kl == C.AdaptiveKL(target=1e-3)
    assert C.load(path, ["grpo.adaptive_kl=none"]).grpo.adaptive_kl is None
    assert C.load(path, ["model.lora=lora", "model.train="]).model.lora == C.LoRA()


@pytest.mark.parametrize(
    "override, words",
    [
        ("grop.group=4", "grop.group: no field `grop` in Config; did you mean `grpo`?"),
        ("grpo.grup=4", "no field `grup` in GRPO; did you mean `group`?"),
        ("temperature=1", "did you mean `sampling.temperature`?"),
        ("zzz=1", "its fields are model, data"),
        ("data.source.cuont=1", "no field `cuont` in Toy; did you mean `count`?"),
        ("grpo.group=four", "grpo.group: expected int, found `four`"),
        ("grpo.group=4.0", "expected int, found `4.0`"),
        ("grpo.loss.epsilon_high=x", "expected float, found `x`"),
        ("optim.lr=nan", "expected float, found `nan`"),
        ("run.resume=maybe", "expected true or false, found `maybe`"),
        ("optim.schedule=cubic", "expected one of constant, linear, cosine"),
        ("data.prompt_buckets=1,x", "data.prompt_buckets: expected int"),
        ("data.template=print", "data.template holds a function and cannot be set"),
        ("rewards.0.fn=print", "rewards.0.fn holds a function and cannot be set"),
        ("data.source=Toy()", "data.source is a Toy; set a field of it"),
        ("grpo=4", "grpo is a GRPO; set a field of it"),
        ("grpo.epsilon=0.1", "no field `epsilon` in GRPO; did you mean `grpo.loss.epsilon`?"),
        ("grpo.loss=ppo", "grpo.loss: expected one of grpo, dr_grpo, dapo, bnpo, cispo, gspo"),
        ("eval=Eval", "eval holds Eval and cannot be set on the command line"),
        ("rewards.2.weight=1", "no item `2`; expected a number from 0 to 1"),
        ("run.dir.x=1", "run.dir.x: no field `x` in a str"),
        ("grpo.group", "write field=value"),
        ("=4", "write field=value"),
    ],
)
def test_a_wrong_override_says_what_was_found_and_what_to_do(path, override, words):
    with pytest.raises(UserError) as caught:
        C.load(path, [override])
    assert words in str(caught.value)


def test_values_are_never_evaluated(path, tmp_path):
    trap = f"__import__('pathlib').Path({str(tmp_path / 'hit')!r}).touch()"
    assert C.load(path, [f"run.dir={trap}"]).run.dir == trap
    for field in ("grpo.group", "data.template", "data.prompt_buckets", "optim.lr"):
        with pytest.raises(UserError):
            C.load(path, [f"{field}={trap}"])
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["grpo.group=8", "grpo.group_per_row=3"], "does not divide grpo.group = 8; the nearest"),
        (["grpo.group=1"], "grpo.group = 1: expected a number at least 2"),
        (["grpo.loss.delta=1.1"], "grpo.loss.delta = 1.1 is not above 1.2, where the upper clip"),
        (["grpo.loss=gspo", "grpo.loss.epsilon=2"], "at least 0 and at most 1"),
        (["grpo.adaptive_kl=adaptive_kl", "grpo.beta=0"], "grpo.adaptive_kl needs a grpo.beta"),
        (["grpo.mini_batches=3"], "not a multiple of 3"),
        (["sampling.temperature=0"], "sampling.temperature = 0.0: expected a number above 0"),
        (["sampling.top_p=1.1"], "above 0 and at most 1"),
        (["optim.b2=1"], "at least 0 and below 1"),
        (["data.prompt_buckets=()"], "sizes that grow"),
        (["data.prompt_buckets=512,256"], "sizes that grow"),
        (["data.patch_buckets=255"], "multiples of 4"),
        (["model.min_pixels=10", "model.max_pixels=5"], "model.min_pixels = 10"),
        (["optim.warmup_steps=11"], "above the run's 10 updates (run.steps = 10)"),
        (["optim.min_lr=1e-5"], "optim.min_lr = 1e-05 is above optim.lr = 1e-06"),
        (["profile.steps=3"], "profile.steps = '3': expected first:last"),
        (["profile.steps=4:3"], "expected first:last"),
        (["profile.steps=0:3"], "from 1 to run.steps = 10"),
        (["profile.steps=9:11"], "from 1 to run.steps = 10"),
        (["rewards.1.name=accuracy"], "a name of its own"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "at most one is -1"),
        (["mesh.data=3"], "grpo.prompts=9"),
        (["mesh.data=16"], "grpo.prompts=16 or grpo.group_per_row=4"),
        (["grpo.micro_batches=16"], "grpo.prompts=16 or grpo.group_per_row=4"),
    ],
)
def test_fields_that_disagree_are_refused(path, overrides, words):
    with pytest.raises(UserError) as caught:
        C.load(path, overrides)
    assert words in str(caught.value)


def test_prompts_are_dealt_out_to_processes_evenly():
    check_share(C.GRPO(prompts=8), 4)
    with pytest.raises(UserError, match="grpo.prompts = 6 is not .* 4 processes .*prompts=8"):
        check_share(C.GRPO(prompts=6), 4)
    with pytest.raises(UserError, match="sft.rows = 5 .* try sft.rows=6"):
        check_share(C.SFT(target=str, rows=5), 2)


def test_a_profile_names_its_steps():
    assert list(C.Profile("10:12").span()) == [10, 11, 12]
    assert not C.Profile().span()


def test_the_cures_that_check_rows_names_are_cures():
    for prompts, group, per_row, micro, shards in [
        (8, 8, 0, 1, 16),
        (6, 8, 4, 2, 5),
        (3, 6, 2, 2, 4),
    ]:
        grpo = C.GRPO(prompts=prompts, group=group, group_per_row=per_row, micro_batches=micro)
        with pytest.raises(UserError) as caught:
            check_rows(grpo, shards)
        for cure in str(caught.value).split("; try ")[1].split(" or "):
            name, value = cure.removeprefix("grpo.").split("=")
            check_rows(dataclasses.replace(grpo, **{name: int(value)}), shards)


def test_types_are_checked_in_the_file_too(path):
    for old, new, words in [
        ('Model(path="m")', 'Model(path="m", dtype="float16")', "model.dtype: expected one of"),
        ("steps=10", "steps=10.5", "run.steps: expected int, found 10.5 (float)"),
        ("template=template", "template='x'", "data.template: expected a function"),
        ("source=Toy()", "source=[]", "data.source: expected a source"),
        ("Reward(accuracy),", "Reward(accuracy, True),", "rewards.0.weight: expected float"),
    ]:
        path.write_text(FILE.replace(old, new))
        with pytest.raises(UserError) as caught:
            C.load(path)
        assert words in str(caught.value)


def test_a_file_that_is_no_config_is_refused(path, tmp_path):
    with pytest.raises(UserError, match="no config file"):
        C.load(tmp_path / "none.py")
    path.write_text("x = 1")
    with pytest.raises(UserError, match="defines no function config"):
        C.load(path)
    path.write_text("def config(): return 3")
    with pytest.raises(UserError, match="returned a int"):
        C.load(path)
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(UserError, match="is not a Python file"):
        C.load(tmp_path / "a.yaml")


def test_to_json_holds_every_field_and_names_code(path):
    cfg = C.load(path)
    out = json.loads(json.dumps(fields.to_json(cfg), allow_nan=False))
    assert set(out) == {field.name for field in dataclasses.fields(C.Config)}
    assert out["grpo"]["group"] == 8 and out["data"]["prompt_buckets"] == [256, 512, 1024]
    assert out["data"]["template"].endswith(":template")
    assert out["data"]["source"]["type"].endswith(":Toy") and out["data"]["source"]["count"] == 3
    assert fields.to_json(functools.partial(len, 3))["partial"] == "builtins:len"
    assert fields.to_json({"keep": frozenset("cab")}) == {"keep": ["a", "b", "c"]}  # in one order


def test_a_partial_has_the_name_of_its_function():
    assert C.Reward(functools.partial(print, "x")).name == "print"


def test_importing_config_loads_no_jax():
    code = "import sys, jaxvl.config; sys.exit(any(m in sys.modules for m in ('jax', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "train, lora, words",
    [
        (("merger", "text"), C.LoRA(), "text is in model.train and in model.lora.parts"),
        (("tower",), C.LoRA(parts=("text", "tower")), "tower is in model.train"),
        ((), C.LoRA(rank=0), "model.lora.rank = 0: expected a number at least 1"),
        ((), C.LoRA(alpha=0), "model.lora.alpha = 0: expected a number above 0"),
        ((), C.LoRA(dropout=1), "model.lora.dropout = 1: expected a number at least 0 and below 1"),
        ((), C.LoRA(rank="8"), "model.lora.rank: expected int, found '8' (str)"),
        ((), C.LoRA(targets=("qkv",)), "model.lora.targets: expected a tuple of one of q, k, v, o"),
    ],
)
def test_adapters_that_do_not_go(path, train, lora, words):
    cfg = C.load(path, ["model.train=merger, text"])
    assert cfg.model.train == ("merger", "text")
    model = dataclasses.replace(cfg.model, lora=lora, train=train)
    with pytest.raises(UserError) as caught:
        validate(dataclasses.replace(cfg, model=model))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.train=vision", "model.train: expected one of tower, merger, text, found `vision`"),
        ("model.train=()", "model.train is empty and model.lora is none: nothing would be trained"),
    ],
)
def test_parts_that_cannot_train(path, override, words):
    with pytest.raises(UserError) as caught:
        C.load(path, [override])
    assert words in str(caught.value)
