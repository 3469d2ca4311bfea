# SPDX-License-Identifier: Apache-2.0
"""Overrides are parsed by type, reach what is none or a function, and wrong ones say what to do."""

import functools

import pytest

from jaxvl import config as C
from jaxvl.config import fields
from jaxvl.config.validate import validate
from jaxvl.errors import UserError
from tests.toy import CONFIGS, write_toy


@pytest.fixture
def path(tmp_path):
    return write_toy(tmp_path)


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
    "words, found",
    [
        (["eval.source.count=7"], lambda c: (c.eval.source.count, c.eval.samples) == (7, 4)),
        (["eval.samples=2", "eval.source.where=/t"], lambda c: c.eval.samples == 2),
        (["eval.source.count=1", "eval=none"], lambda c: c.eval is None),
        (["benchmarks.tasks=smoke"], lambda c: c.benchmarks.tasks == (C.Benchmark("smoke"),)),
        (
            ["benchmarks.every=5", "benchmarks.tasks=smoke,vsr", "benchmarks.tasks.1.source=d"],
            lambda c: c.benchmarks.tasks == (C.Benchmark("smoke"), C.Benchmark("vsr", "d")),
        ),
        (
            ["benchmarks.tasks.0.name=smoke", "benchmarks.tasks.0.limit=3"],
            lambda c: c.benchmarks.tasks == (C.Benchmark("smoke", limit=3),),
        ),
        (["model.lora.rank=4", "model.train=tower"], lambda c: c.model.lora == C.LoRA(4)),
        (["grpo.adaptive_kl.target=1e-3"], lambda c: c.grpo.adaptive_kl == C.AdaptiveKL(1e-3)),
    ],
)
def test_a_field_of_a_part_that_is_none_makes_the_part(path, words, found):
    assert found(C.load(path, words))
    assert C.load(path).eval is C.load(path).benchmarks is None


@pytest.mark.parametrize(
    "words, names, settings",
    [
        (["rewards.2.fn=think_format"], ["accuracy", "second", "think_format"], {}),
        (["rewards.2.fn=jaxvl.rewards.length", "rewards.2.weight=0.1"], [..., ..., "length"], {}),
        (["rewards.2.weight=0", "rewards.2.fn=length"], [..., ..., "length"], {}),
        (["rewards=think_format"], ["think_format"], {}),
        (["rewards.0.fn=think_format"], ["think_format", "second"], {}),
        (["rewards.1.fn=think_format"], ["accuracy", "second"], {}),  # its name was its own
        (["rewards.1.fn=verified", "rewards.1.fn.kind=mcq"], [..., "second"], {"kind": "mcq"}),
        (
            ["rewards.0.fn=repetition", "rewards.0.fn.size=4", "rewards.0.fn.penalty=-2"],
            ["repetition", ...],
            {"size": 4, "penalty": -2.0},
        ),
        (
            ["rewards.0.fn=soft_overlong", "rewards.0.fn.limit=8", "rewards.0.fn.margin=2"],
            ["soft_overlong", ...],
            {"limit": 8, "margin": 2},
        ),
        (
            ["rewards.0.fn=cosine", "rewards.0.fn.kind=math", "rewards.0.fn.limit=9"]
            + ["rewards.0.fn.right=2,1", "rewards.0.fn.exceeded=-3"],
            ["cosine", ...],
            {"kind": "math", "limit": 9, "right": (2.0, 1.0), "exceeded": -3.0},
        ),
    ],
)
def test_rewards_are_named_added_and_set(path, words, names, settings):
    rewards = C.load(path, words).rewards
    assert len(rewards) == len(names)
    assert all(name in (..., each.name) for name, each in zip(names, rewards, strict=True))
    bound = [r.fn.keywords for r in rewards if isinstance(r.fn, functools.partial)]
    assert bound == ([settings] if settings else [])


def test_settings_below_a_function_go_as_deep_as_they_are(path):
    words = ["rewards.0.fn=verified", "rewards.0.fn.kind=bbox", "rewards.0.fn.frames.gold=unit"]
    fn = C.load(path, [*words, "rewards.0.fn.frames.model=processed"]).rewards[0].fn
    assert (fn.keywords["frames"].model, fn.keywords["frames"].gold) == ("processed", "unit")
    with pytest.raises(UserError, match="box frame is 'inches'"):
        C.load(path, [*words, "rewards.0.fn.frames.model=inches"])


@pytest.mark.parametrize(
    "words, value",
    [
        ("rewards.0.fn.only=digit,mcq", lambda fn: fn.only == ("digit", "mcq")),
        ("rewards.0.fn.only=open", lambda fn: fn.only == ("open",)),
        ("rewards.0.fn.beta=2", lambda fn: fn.beta == 2.0),
        ("rewards.0.fn.weights.iou=0.5", lambda fn: fn.weights.iou == 0.5),
        ("rewards.0.fn.on_failure=mask", lambda fn: fn.on_failure == "mask"),
        ("rewards.0.fn.on_failure=0.5", lambda fn: fn.on_failure == 0.5),
        ("rewards.0.fn.scorer=none", lambda fn: fn.scorer is None),
        (
            "rewards.0.fn.scorer.endpoint.url=https://h:1/s",
            lambda fn: fn.scorer.endpoint.url == "https://h:1/s",
        ),
        ("rewards.0.fn.scorer.endpoint.timeout=3", lambda fn: fn.scorer.endpoint.timeout == 3.0),
        ("rewards.0.fn.scorer.field=reward", lambda fn: fn.scorer.field == "reward"),
        ("rewards.0.fn.frames.model=processed", lambda fn: fn.frames.model == "processed"),
    ],
)
def test_the_mixed_reward_of_vlaa_is_reached(words, value):
    cfg = C.load(CONFIGS / "vlaa.py", [words])
    assert value(cfg.rewards[0].fn) and cfg.rewards[0].name == "mixed"


@pytest.mark.parametrize(
    "override, words",
    [
        ("rewards.0.fn.only=digits", "Mixed.only is ('digits',); expected some of digit, mcq"),
        ("rewards.0.fn.only=", "Mixed.only is ()"),
        ("rewards.0.fn.beta=-1", "Mixed.beta is -1.0"),
        ("rewards.0.fn.scorer.endpoint.url=ftp://x", "expected http:// or https://"),
        ("rewards.0.fn.scorer.endpoint.key=NO_SUCH_KEY", "the environment has no NO_SUCH_KEY"),
        ("rewards.0.fn.scorer=print", "rewards.0.fn.scorer is a RewardEndpoint; set a field of it"),
        ("rewards.0.fn._references.x=1", "no field `_references` in Mixed"),
        ("rewards.0.fn.scorer.endpoint.counts.x=1", "no field `counts` in Endpoint"),
        ("rewards.0.fn.scorer.endpoint.prices=1", "expected 2 items, found `1`"),
    ],
)
def test_a_wrong_setting_of_the_mixed_reward(override, words):
    with pytest.raises(UserError) as caught:
        C.load(CONFIGS / "vlaa.py", [override])
    assert words in str(caught.value)


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
        ("run.resume=maybe", "expected one of auto, never, true, false, found `maybe`"),
        ("optim.schedule=cubic", "expected one of constant, linear, cosine"),
        ("data.prompt_buckets=1,x", "data.prompt_buckets: expected int"),
        ("data.template=print", "data.template: expected one of chat, as-given, vlaa"),
        ("rewards.0.fn=print", "rewards.0.fn: expected one of accuracy, think_format, length"),
        (
            "rewards.0.fn=os.system",
            "found `os.system`; a function of your own stands in",
        ),
        ("rewards.0.fn=jaxvl.rewards.pool.watch", "found `jaxvl.rewards.pool.watch`"),
        ("rewards.0.fn=__import__", "found `__import__`"),
        ("rewards.2.fn=verify", "expected one of accuracy"),
        ("rewards.2.fn=jaxvl.cli.main.main", "found `jaxvl.cli.main.main`"),
        ("rewards.2.fn=verified", "verified needs `kind` (str); set rewards.2.fn.kind"),
        ("rewards.2.fn=cosine", "cosine needs `kind`"),
        ("rewards.2.fn=soft_overlong", "soft_overlong needs `limit` (int)"),
        ("rewards.2.fn=judged", "judged needs `scorer` (a function)"),
        ("rewards.0.fn.kind=mcq", "rewards.0.fn.kind: no setting `kind` of accuracy; it has none"),
        ("rewards.0.fn.prompts=1", "no setting `prompts` of accuracy"),
        ("rewards=accuracy,zzz", "rewards: expected one of accuracy"),
        ("benchmarks.every=5", "benchmarks.tasks is missing: expected a tuple of Benchmark; set"),
        ("benchmarks.tasks.0.limit=5", "benchmarks.tasks.0.name is missing: expected str"),
        ("benchmarks.task=smoke", "no field `task` in Benchmarks; did you mean `tasks`?"),
        ("benchmarks.every=x", "benchmarks.every: expected int"),
        ("benchmarks=smoke", "benchmarks holds Benchmarks and cannot be set as a whole"),
        ("eval.samples=2", "eval.source is missing: expected a source (an object with load());"),
        ("eval.source=x.jsonl", "eval.source holds a source (an object with load()) and cannot"),
        ("eval.source.cuont=1", "eval.source.cuont: no field `cuont` in Toy; did you mean `count`"),
        ("model.lora.rnak=4", "no field `rnak` in LoRA; did you mean `rank`?"),
        ("grpo.adaptive_kl.x=1", "no field `x` in AdaptiveKL"),
        ("model.max_pixels.x=1", "nothing yet of which a field could be set, and it takes int"),
        ("data.source=Toy()", "data.source is a Toy; set a field of it"),
        ("grpo=4", "grpo is a GRPO; set a field of it"),
        ("grpo.epsilon=0.1", "no field `epsilon` in GRPO; did you mean `grpo.loss.epsilon`?"),
        ("grpo.loss=ppo", "grpo.loss: expected one of grpo, dr_grpo, dapo, bnpo, cispo, gspo"),
        ("eval=Eval", "eval holds Eval and cannot be set as a whole; set a field of it"),
        ("rewards.2.weight=1", "rewards.2.fn is missing: expected a function; set rewards.2.fn"),
        ("rewards.3.weight=1", "no item `3`; expected a number from 0 to 2 (which adds one)"),
        ("rewards.-1.weight=1", "no item `-1`"),
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


def test_a_field_that_the_configs_source_lacks():
    """No field of another part is named for it."""
    for override in ("data.source.path=x", "eval.source.path=x"):
        with pytest.raises(UserError, match="no field `path` in Scenes; its fields are s") as told:
            C.load(CONFIGS / "quickstart.py", [override])
        assert "model.path" not in str(told.value) and "is set in the config f" in str(told.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.dir=", "run.dir = ''"),
        ("run.dir= ", "run.dir = "),
        ("run.dir=a\0b", "run.dir = "),
        ("model.path=", "model.path = ''"),
        ("data.prompt_buckets=[1,2", "a bracket without the other"),
        ("data.prompt_buckets=1,2)", "a bracket without the other"),
    ],
)
def test_what_is_left_open_or_empty_is_told(override, message):
    with pytest.raises(UserError, match=message):
        validate(C.load(CONFIGS / "quickstart.py", [override]))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("the,then", ("the", "then")),
        ("the, then", ("the", "then")),
        ("[the, then]", ("the", "then")),
        ('["wait, no", "hmm"]', ("wait, no", "hmm")),
        ('[" no"]', (" no",)),
        ('["a]", "b"]', ("a]", "b")),
    ],
)
def test_texts_of_a_list_may_have_commas(path, tmp_path, words, found):
    assert C.load(path, [f"sampling.ban={words}"]).sampling.ban == found
    file = tmp_path / "run.yaml"
    lines = ("model: {path: m}", "data: {source: {path: d.jsonl}}", "rewards: [accuracy]")
    lines += ("run: {dir: r, steps: 1}", f"sampling: {{ban: {list(found)}}}")
    file.write_text("\n".join(lines))
    assert C.load(file).sampling.ban == found
