# SPDX-License-Identifier: Apache-2.0
"""Fields of the wrong type or that disagree are refused; what a config does is said."""

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
from tests.toy import CONFIGS, FILE, write_toy


@pytest.fixture
def path(tmp_path):
    return write_toy(tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_config_can_be_tried_in_few_steps(name, steps, capsys):
    cfg = C.load(CONFIGS / f"{name}.py", [f"run.steps={steps}"], C.Config, C.SFTConfig)
    updates = steps * (cfg.grpo.updates if isinstance(cfg, C.Config) else 1)
    warmup, horizon = cfg.optim.span(updates)
    said = capsys.readouterr().err
    assert 0 <= warmup <= horizon and horizon == (cfg.optim.horizon or updates)
    assert (cfg.optim.warmup_steps > horizon) == ("the learning rate rises over all" in said)


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
    "words, span, note",
    [
        ([], (0, 10), ""),
        (["optim.warmup_steps=4"], (4, 10), ""),
        (["optim.warmup_steps=0.25"], (2, 10), ""),
        (["optim.warmup_steps=0.01"], (0, 10), ""),
        (["optim.warmup_steps=1"], (1, 10), ""),
        (["optim.warmup_steps=0.999"], (10, 10), ""),
        (["optim.warmup_steps=11"], (10, 10), "= 11 is more than the schedule's 10 updates: the"),
        (["optim.warmup_steps=11", "optim.horizon=100"], (11, 100), "end within its warm-up of 11"),
        (["optim.warmup_steps=0.05", "optim.horizon=100"], (5, 100), ""),
        (["optim.horizon=4", "optim.schedule=cosine"], (0, 4), "horizon = 4 is less than the run"),
        (["optim.horizon=4"], (0, 4), ""),  # a constant rate has no end
        (["optim.warmup_steps=3", "grpo.mini_batches=2"], (3, 20), ""),
    ],
)
def test_warm_up_and_horizon_in_updates(path, capsys, words, span, note):
    cfg = C.load(path, words)
    assert cfg.optim.span(cfg.run.steps * cfg.grpo.updates) == span
    said = capsys.readouterr().err
    assert note in said if note else not said


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
        (["sampling.tensor=0"], "sampling.tensor = 0: expected a number at least 1"),
        (["sampling.weights=int8"], "set grpo.importance_sampling_cap=2, or sampling.weights=none"),
        (["sampling.weights=int4"], "sampling.weights"),
        (["sampling.cache=int8"], "set grpo.importance_sampling_cap=2, or sampling.cache=none"),
        (["optim.b2=1"], "at least 0 and below 1"),
        (["data.prompt_buckets=()"], "sizes that grow"),
        (["data.prompt_buckets=512,256"], "sizes that grow"),
        (["data.patch_buckets=255"], "multiples of 4"),
        (["model.min_pixels=10", "model.max_pixels=5"], "model.min_pixels = 10"),
        (["optim.warmup_steps=1.5"], "expected whole updates, or a share below 1"),
        (["optim.warmup_steps=-1"], "expected a number at least 0"),
        (["optim.horizon=0"], "optim.horizon = 0: expected a number at least 1"),
        (["optim.min_lr=1e-5"], "optim.min_lr = 1e-05 is above optim.lr = 1e-06"),
        (["profile.steps=3"], "profile.steps = '3': expected first:last"),
        (["profile.steps=4:3"], "expected first:last"),
        (["profile.steps=0:3"], "from 1 to run.steps = 10"),
        (["profile.steps=9:11"], "from 1 to run.steps = 10"),
        (["rewards.1.name=accuracy"], "a name of its own"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "at most one is -1"),
        (["mesh.data=3"], "grpo.prompts=9"),
        (["mesh.data=16"], "try grpo.group_per_row=4"),
        (["grpo.micro_batches=16"], "try grpo.group_per_row=4"),
    ],
)
def test_fields_that_disagree_are_refused(path, overrides, words):
    with pytest.raises(UserError) as caught:
        C.load(path, overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["rewards.0.fn=accuracy", "rewards.1.fn=accuracy"], "a name of its own"),
        (["rewards.0.fn=verified"], "verified needs `kind` (str); set rewards.0.fn.kind"),
    ],
)
def test_rewards_that_score_the_answers_of_a_supervised_run_are_checked(overrides, words):
    with pytest.raises(UserError) as caught:
        C.load(CONFIGS / "quickstart_sft.py", overrides, C.SFTConfig)
    assert words in str(caught.value)


@pytest.mark.parametrize("name, kind", [("quickstart", C.Config), ("quickstart_sft", C.SFTConfig)])
def test_a_supervised_run_says_that_it_compiles_nothing_ahead(name, kind, capsys):
    C.load(CONFIGS / f"{name}.py", ["run.compile_ahead=true"], kind)
    assert ("run.compile_ahead" in capsys.readouterr().err) == (kind is C.SFTConfig)


def batch_of(grpo):
    """The batch of a run with this algorithm."""
    return C.Config(None, None, (), None, grpo=grpo, sampling=C.Sampling(48)).batch


def sft_batch(**fields):
    return C.SFTConfig(None, None, C.SFT(str, **fields), None).batch


def test_a_batch_is_one_thing_whatever_the_run():
    """Rows and pieces by hand: 6 prompts, groups of 8 in rows of 4, cut 2 x 3, twice over."""
    grpo = C.GRPO(6, 8, 4, mini_batches=2, micro_batches=3, num_iterations=2, logprob_chunk=64)
    batch = batch_of(grpo)
    assert (batch.prompts, batch.rows, batch.per_row, batch.length) == (6, 12, 4, 48)
    assert (batch.pieces, batch.updates, batch.logprob_chunk) == (6, 4, 64)
    assert batch_of(C.GRPO(6, 8)).rows == 6 and batch_of(C.GRPO(6, 8)).per_row == 8
    batch = sft_batch(rows=6, micro_batches=3, target_length=32, logprob_chunk=64)
    assert (batch.prompts, batch.rows, batch.per_row, batch.length) == (6, 6, 1, 32)
    assert (batch.pieces, batch.updates, batch.logprob_chunk) == (3, 1, 64)


@pytest.mark.parametrize("batch", [batch_of(C.GRPO()), sft_batch()], ids=["grpo", "sft"])
def test_the_fields_that_a_batch_names_are_fields(batch):
    found = fields.describe(C.Config) + fields.describe(C.SFTConfig)
    named = {batch.prompts_field, batch.row_field, f"{batch.part}.micro_batches"}
    assert named <= {field.path for field in found}


def test_prompts_are_dealt_out_to_processes_evenly():
    check_share(batch_of(C.GRPO(prompts=8)), 4)
    with pytest.raises(UserError, match="grpo.prompts = 6 is not .* 4 processes .*prompts=8"):
        check_share(batch_of(C.GRPO(prompts=6)), 4)
    with pytest.raises(UserError, match="sft.rows = 5 .* try sft.rows=6"):
        check_share(sft_batch(rows=5), 2)


def test_a_profile_names_its_steps():
    assert list(C.Profile("10:12").span()) == [10, 11, 12]
    assert not C.Profile().span()


def test_the_cures_that_check_rows_names_are_cures():
    for prompts, group, per_row, micro, shards in [
        (8, 8, 0, 1, 16),
        (6, 8, 4, 2, 5),
        (3, 6, 2, 2, 4),
        (8, 8, 0, 2, 64),
    ]:
        grpo = C.GRPO(prompts=prompts, group=group, group_per_row=per_row, micro_batches=micro)
        with pytest.raises(UserError) as caught:
            check_rows(batch_of(grpo), shards)
        for cure in str(caught.value).split("; try ")[1].split(" or "):
            pairs = [word.removeprefix("grpo.").split("=") for word in cure.split()]
            cured = dataclasses.replace(grpo, **{name: int(value) for name, value in pairs})
            check_rows(batch_of(cured), shards)


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


def test_a_config_of_the_docs_is_named_where_no_checkout_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("jsonl.py", "papers/vlaa_modern.py"):
        with pytest.raises(UserError, match="comes with jaxvl is (.*)$") as caught:
            C.load(f"configs/{name}")
        C.load(str(caught.value).split(" is ")[-1], [f"run.dir={tmp_path}"])
    with pytest.raises(UserError, match="give the path of a Python file"):
        C.load("configs/none.py")


def test_a_file_that_is_no_config_is_refused(path, tmp_path):
    with pytest.raises(UserError, match="no config file"):
        C.load(tmp_path / "none.py")
    path.write_text("x = 1")
    with pytest.raises(UserError, match="defines no function config"):
        C.load(path)
    path.write_text("def config(): return 3")
    with pytest.raises(UserError, match="returned a int"):
        C.load(path)
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(UserError, match="is not a Python file"):
        C.load(tmp_path / "a.toml")


def test_to_json_holds_every_field_and_names_code(path):
    cfg = C.load(path)
    out = json.loads(json.dumps(fields.to_json(cfg), allow_nan=False))
    assert set(out) == {field.name for field in dataclasses.fields(C.Config)}
    assert out["grpo"]["group"] == 8 and out["data"]["prompt_buckets"] == [256, 512, 1024]
    assert out["data"]["template"].endswith(":template")
    assert out["data"]["source"]["type"].endswith(":Toy") and out["data"]["source"]["count"] == 3
    assert fields.to_json(functools.partial(len, 3))["partial"] == "builtins:len"
    assert fields.to_json({"keep": frozenset("cab")}) == {"keep": ["a", "b", "c"]}  # in one order


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


def test_a_partial_has_the_name_of_its_function():
    assert C.Reward(functools.partial(print, "x")).name == "print"
