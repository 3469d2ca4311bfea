# SPDX-License-Identifier: Apache-2.0
"""What loops start from: the stream of prompts, those that are too long, a run taken up again."""

import contextlib
import dataclasses
import json
import types
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvl.checkpoints.store import Checkpoints
from jaxvl.config import GRPO, SFT, Config, Data, Model, Profile, Reward, Run, SFTConfig
from jaxvl.data import test_sets
from jaxvl.data.example import Example
from jaxvl.data.prompts import Processor, PromptTooLong
from jaxvl.data.templates import VisualThinker, chat_question
from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.observe import timing
from jaxvl.observe.metrics import MetricsWriter, read_metrics
from jaxvl.rewards import accuracy
from jaxvl.train import prompts, resume, setup
from tests.train.test_grpo import ROOT

BASE = str(ROOT / "configs/quickstart_base")
LONG = {3, 4, 8}  # examples whose prompts do not fit


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Short questions; those in `long` say much, and example 5 shows a picture of 16 patches."""

    size: int = 10
    long: tuple[int, ...] = tuple(LONG)

    def load(self) -> Sequence[Example]:
        picture = (Image.new("RGB", (56, 56)),)
        return [
            Example(
                id=f"e{i}",
                question="left or right " * (30 if i in self.long else 1),
                answer="left",
                images=picture if i == 5 else (),
            )
            for i in range(self.size)
        ]


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(BASE)


def make_config(run_dir, *, source=None, run=None, model=None, **data):
    settings = {"prompt_buckets": (32, 64), "patch_buckets": (16, 64), **data}
    return Config(
        model=Model(**{"path": BASE, **(model or {})}),
        data=Data(source=source or Mixed(), **{"template": chat_question, **settings}),
        rewards=(Reward(accuracy),),
        grpo=GRPO(prompts=4, group=2),
        run=Run(dir=str(run_dir), steps=2, **(run or {})),
    )


@pytest.fixture
def make_stream(processor):
    def make(cfg, devices=1):
        mesh = make_mesh(devices, devices=jax.devices()[:devices])
        vlm = types.SimpleNamespace(processor=processor, mesh=mesh)
        return prompts.PromptStream.of(cfg, vlm, cfg.grpo.prompts)

    return make


def places(items):
    return [(item.position, item.example.id) for item in items]


def test_a_prompt_too_long_ends_the_run_before_it_begins(make_stream, tmp_path):
    with pytest.raises(
        PromptTooLong,
        match=r"3 of the first 10 examples do not fit; example e3 has \d+ tokens, the limit is "
        r"64: data.prompt_buckets=\d+ would hold these .*data.too_long=drop",
    ) as caught:
        make_stream(make_config(tmp_path, shuffle=False))
    assert not list(tmp_path.iterdir())
    size = int(str(caught.value).partition("prompt_buckets=")[2].split()[0])
    make_stream(make_config(tmp_path, shuffle=False, prompt_buckets=(size,)))
    with pytest.raises(PromptTooLong, match=f"data.prompt_buckets={size} would"):
        make_stream(make_config(tmp_path, shuffle=False, prompt_buckets=(size - 1,)))


def test_one_that_comes_later_ends_it_when_it_is_drawn(make_stream, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts.buckets, "LOOK", 3)
    stream = make_stream(make_config(tmp_path, shuffle=False))
    with pytest.raises(
        PromptTooLong, match=r"example e3 has \d+ tokens.* set data.prompt_buckets="
    ):
        next(stream)


def test_a_picture_too_large_counts_too(make_stream, tmp_path):
    cfg = make_config(tmp_path, source=Mixed(long=()), shuffle=False, patch_buckets=(12,))
    with pytest.raises(PromptTooLong, match="e5 has 16 patches, the limit is 12: data.patch.*=16"):
        make_stream(cfg)


@pytest.mark.parametrize(
    ("long", "tokens", "patches"),
    [((), (64,), (64,)), ((3,), (64, 128), (64,)), (tuple(range(10)), (128,), (64,))],
)
def test_buckets_are_read_off_the_first_examples(
    make_stream, tmp_path, monkeypatch, long, tokens, patches
):
    cfg = make_config(
        tmp_path,
        source=Mixed(long=long),
        shuffle=False,
        prompt_buckets="auto",
        patch_buckets="auto",
    )
    stream = make_stream(cfg)
    assert (stream.data.prompt_buckets, stream.data.patch_buckets) == (tokens, patches)
    for index in range(2):  # in any process, and in a run that is taken up again
        monkeypatch.setattr(prompts, "data_shard", lambda mesh, index=index: Told(index, 2))
        assert make_stream(cfg, devices=2).data == stream.data


def test_without_limits_a_larger_prompt_gets_a_larger_bucket(make_stream, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts.buckets, "LOOK", 3)
    cfg = make_config(tmp_path, shuffle=False, prompt_buckets="auto")
    stream = make_stream(cfg)
    assert stream.data.prompt_buckets == (64,) and stream.data.patch_buckets == (16, 64)
    items = next(stream)
    assert stream.collate(items)["tokens"].shape == (4, 128)
    assert not any(item.dropped for item in items)


def make_sft(run_dir, length, too_long="error", **settings):
    cfg = make_config(run_dir, source=Mixed(long=()), shuffle=False, too_long=too_long)
    sft = SFT(target=lambda e: "left " * (30 if e.id == "e3" else 1), target_length=length, rows=4)
    return SFTConfig(model=cfg.model, data=cfg.data, run=cfg.run, sft=sft)


@pytest.fixture
def sft_stream(processor):
    def make(cfg):
        vlm = types.SimpleNamespace(processor=processor, mesh=make_mesh(devices=jax.devices()[:1]))
        return prompts.PromptStream.of(cfg, vlm, cfg.sft.rows)

    return make


def test_a_target_too_long_is_found_before_the_first_step(sft_stream, tmp_path):
    with pytest.raises(
        PromptTooLong, match=r"example e3 has \d+ tokens of a target, the limit is 9"
    ):
        sft_stream(make_sft(tmp_path, 9))
    with pytest.raises(PromptTooLong, match=r": sft.target_length=(\d+) would hold") as caught:
        sft_stream(make_sft(tmp_path, 9))
    length = int(str(caught.value).partition("target_length=")[2].split()[0])
    items = next(sft_stream(make_sft(tmp_path, length)))
    assert max(len(item.target) for item in items) == length


def test_a_target_too_long_is_dropped_as_a_prompt_is(sft_stream, tmp_path, processor, capsys):
    stream = sft_stream(make_sft(tmp_path, 9, "drop"))
    items = next(stream)
    (row,) = items[3].dropped
    assert (row.id, row.reason) == ("e3", "target too long")
    for _ in range(4):  # once for each reason, however often a row is drawn
        next(stream)
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert said == [f"data: left out: e3: {row.found}; all are in dropped.jsonl"]
    assert items[0].target == (*processor.tokenize("left "), processor.stop_ids[0])
    with pytest.raises(
        PromptTooLong, match="10 of the first 10 .* target, the limit is 1"
    ) as caught:
        sft_stream(make_sft(tmp_path, 1, "drop"))
    assert "too_long" not in str(caught.value)  # it is set, and leaves nothing


def test_a_dropped_prompt_is_replaced_and_all_others_stay(make_stream, tmp_path):
    """The same positions and examples as without long ones, but for the places of these."""
    drop, whole = (
        make_stream(make_config(tmp_path, source=Mixed(long=long), too_long="drop"))
        for long in (tuple(LONG), ())
    )
    replaced = 0
    for _ in range(10):
        for item, expected in zip(next(drop), next(whole), strict=True):
            assert item.position == expected.position
            long = int(expected.example.id[1:]) in LONG
            assert bool(item.dropped) == long
            if long:
                replaced += 1
                assert item.dropped[0].id == expected.example.id
                assert item.dropped[0].reason == "prompt too long"
                assert int(item.example.id[1:]) not in LONG
            else:
                assert item.example.id == expected.example.id
    assert replaced == 4 * len(LONG)  # 40 prompts are four epochs


@dataclasses.dataclass(frozen=True)
class Golds:
    """Questions with these answers."""

    read_completions: tuple

    def load(self) -> Sequence[Example]:
        return [
            Example(f"e{i}", "which?", answer) for i, answer in enumerate(self.read_completions)
        ]


def test_a_row_whose_answer_earns_nothing_is_listed_as_a_bad_one(make_stream, tmp_path):
    read_completions = ("3", "", "left\nright", 4.0, None, "4", "<answer>5</answer>", "6")
    cfg = make_config(tmp_path, source=Golds(read_completions), shuffle=False, max_bad=0.5)
    stream = make_stream(cfg)
    used = [item.example.answer for _ in range(2) for item in next(stream)]
    assert {"3", "4", "5", "6"} >= set(used) >= {"3", "4"}
    listed = {line["id"]: line for line in read_metrics(tmp_path, "dropped.jsonl")}
    assert sorted(listed) == ["e1", "e2", "e4"]
    assert {line["reason"] for line in listed.values()} == {"no reward for its answer"}
    assert listed["e1"]["found"] == "the answer '' earns nothing from `accuracy` (there is none)"
    with pytest.raises(UserError, match="more than the share data.max_bad = 0.05: .* no reward"):
        next(
            make_stream(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, max_bad=0.05)))
        )


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_takes_the_same_stand_ins(
    make_stream, tmp_path, monkeypatch, count
):
    cfg = make_config(tmp_path, too_long="drop")
    alone = make_stream(cfg)
    whole = [places(next(alone)) for _ in range(6)]
    assert any(item.dropped for item in next(make_stream(cfg)))
    shards = []
    for index in range(count):
        monkeypatch.setattr(prompts, "data_shard", lambda mesh, index=index: Told(index, count))
        stream = make_stream(cfg, devices=count)
        shards.append([places(next(stream)) for _ in range(6)])
    assert [sorted(sum(step, [])) for step in zip(*shards, strict=True)] == whole


@dataclasses.dataclass
class Told:
    """A share of the rows whose other shares say `others`."""

    index: int
    count: int
    others: tuple = ()

    def all_gather_object(self, value):
        return [value, *self.others]


def test_what_other_processes_cannot_use_is_listed_and_counted_too(
    make_stream, tmp_path, monkeypatch
):
    def stream(folder, **data):
        theirs = [(1, {"id": "x", "reason": "torn", "found": "half a picture", "setting": False})]
        monkeypatch.setattr(prompts, "data_shard", lambda mesh: Told(1, 2, ([theirs, []],)))
        cfg = make_config(folder, too_long="drop", shuffle=False, **data)
        return make_stream(cfg, devices=2)

    items = next(stream(tmp_path / "some", max_bad=0.1))
    own = [item.position for item in items if item.dropped]
    assert [item.position for item in items] == [2, 3] and own == [3]
    lines = read_metrics(tmp_path / "some", "dropped.jsonl")
    assert [(line["position"], line["step"]) for line in lines] == [(1, 1), (3, 1)]
    with pytest.raises(UserError, match="1 of 10 rows cannot be used"):
        next(stream(tmp_path / "none", max_bad=0.0))


def test_the_rollouts_of_steps_that_are_done_again_are_taken_off(tmp_path):
    (tmp_path / "rollouts").mkdir()
    names = ["step_2.jsonl", "step_2.1.jsonl", "step_3.jsonl", "step_3.11.jsonl", "step_10.jsonl"]
    for name in names:
        (tmp_path / "rollouts" / name).touch()
    later = resume.later_rollouts(tmp_path, 2)
    assert sorted(path.name for path in later) == sorted(names[2:])


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ([], [["MathVista"]], ["MathVista"]),
        (["MMMU"], [[]], ["MMMU"]),
        (["MMMU"], [["MathVista"], ["MMMU"]], ["MMMU", "MathVista"]),
        ([], [[], [], ["POPE", "MME"]], ["MME", "POPE"]),
        ([], [[], []], []),
    ],
)
def test_a_test_set_that_any_process_meets_marks_the_run(
    make_stream, tmp_path, monkeypatch, own, theirs, expected
):
    told = Told(0, 1, [([], names) for names in theirs])
    monkeypatch.setattr(prompts, "data_shard", lambda mesh: told)
    stream = make_stream(make_config(tmp_path, source=Mixed(long=())))
    stream.trial += own  # as its gate tells it
    items = stream.draw()
    assert test_sets.marks(tmp_path) == []
    stream.use(1, items)
    assert sorted(test_sets.marks(tmp_path)) == sorted(expected)


def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path):
    """And xprof's own format can be read back; a step before or after is not in it."""
    for step in timing.traced(range(1, 6), Profile("2:3"), tmp_path):
        jax.block_until_ready(jnp.ones(8) * step)
    (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = {dict(event.stats)["step_num"] for event in events if event.name == "train"}
    assert steps == {2, 3}


def test_a_run_that_stops_inside_of_a_trace_leaves_it_whole(tmp_path):
    with contextlib.closing(timing.traced(range(1, 6), Profile("1:4"), tmp_path)) as steps:
        for step in steps:
            jax.block_until_ready(jnp.ones(8) * step)
            if step == 2:
                break
    (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert jax.profiler.ProfileData.from_file(str(file)).planes
    with jax.profiler.trace(tmp_path / "again"):  # none is under way any more
        pass


def test_what_happens_after_a_trace_is_not_hidden_by_it(tmp_path):
    with (
        pytest.raises(SystemExit),
        contextlib.closing(timing.traced(range(1, 6), Profile("1:2"), tmp_path)) as steps,
    ):
        for step in steps:
            if step == 4:
                raise SystemExit(143)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_resumed_stream_takes_the_same_stand_ins(make_stream, tmp_path):
    cfg = make_config(tmp_path, too_long="drop")
    stream = make_stream(cfg)
    whole, states = [], []
    for _ in range(6):
        states.append(json.loads(json.dumps(stream.get_state())))
        items = next(stream)
        whole.append([(*place, i.dropped) for place, i in zip(places(items), items, strict=True)])
    assert any(dropped for step in whole[3:] for *_, dropped in step)
    resumed = make_stream(cfg)
    resumed.set_state(states[3])
    for expected in whole[3:]:
        items = next(resumed)
        found = [(*place, i.dropped) for place, i in zip(places(items), items, strict=True)]
        assert found == expected


def test_other_data_than_the_run_was_saved_with_is_refused_unless_allowed(make_stream, tmp_path):
    """Its order would be another one, and the position in it another place."""
    cfg = make_config(tmp_path, too_long="drop")
    stream = make_stream(cfg)
    next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    more = {**state, "examples": {**state["examples"], "the data's number of rows": 10**6}}
    with pytest.raises(UserError, match=r"number of rows: 1000000 when .*run.allow=data.source"):
        make_stream(cfg).set_state(more)
    allowed = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, allow=("data.source",)))
    make_stream(allowed).set_state(more)
    del state["examples"]  # of a checkpoint of a time without
    make_stream(cfg).set_state(state)


def test_what_is_made_ready_ahead_is_still_to_come(make_stream, tmp_path):
    """The state is that of the first prompts that nobody has taken, and drops are of the step that
    takes them."""
    cfg = make_config(tmp_path, too_long="drop", shuffle=False)
    ahead, plain = (prompts.Prefetcher(make_stream(cfg), 1, 2) for _ in range(2))
    for step in (1, 2, 3):
        ahead.prepare()
        ahead.prepare()  # once is enough
        state = ahead.get_state()
        assert state == plain.get_state() and state["position"] == 4 * (step - 1)
        listed = tmp_path / "dropped.jsonl"
        assert step > 1 or not listed.exists()
        items, arrays = ahead.take(7 * step)
        expected, others = plain.take(7 * step)
        assert places(items) == places(expected)
        assert all((arrays[name] == others[name]).all() for name in arrays)
    assert {line["step"] for line in read_metrics(tmp_path, "dropped.jsonl")} == {7, 14, 21}


def test_every_drop_is_listed_and_counted(make_stream, tmp_path):
    stream = make_stream(make_config(tmp_path, too_long="drop", shuffle=False))
    first, second, third = (next(stream) for _ in range(3))
    assert [stream.metrics(items)["data/dropped"] for items in (first, second, third)] == [
        sum(len(item.dropped) for item in items) for items in (first, second, third)
    ]
    lines = read_metrics(tmp_path, "dropped.jsonl")
    assert {line["position"] for line in lines} == LONG
    for line in lines:
        assert line["step"] == line["position"] // 4 + 1
        assert int(line["id"][1:]) in LONG
        assert line["reason"] == "prompt too long"
        assert line["found"].endswith("tokens, the limit is 64")
    assert lines[0]["id"] == "e3"


def test_where_no_prompt_fits_the_run_ends(make_stream, tmp_path):
    source = Mixed(long=tuple(range(10)))
    with pytest.raises(UserError, match="10 of the first 10 examples do not fit"):
        make_stream(make_config(tmp_path, source=source, too_long="drop"))


def test_pixels_of_the_dataset_win_over_the_models(make_stream, processor, tmp_path):
    """Example 5's picture of 56 x 56 pixels is 16 patches as it is and 4 when it is shrunk."""

    def patches(**data):
        cfg = make_config(tmp_path, source=Mixed(long=()), shuffle=False, **data)
        stream = make_stream(cfg)
        next(stream)
        return len(next(stream)[1].encoded.segments)

    assert processor.image.min_pixels == 3136
    assert patches() == 16
    assert patches(min_pixels=784, max_pixels=784) == 4
    assert patches(min_pixels=12544) == 64
    assert processor.image.min_pixels == 3136  # the model's own stay


def test_the_template_is_chosen_for_the_checkpoint(make_stream, tmp_path):
    def prompt(path):
        cfg = make_config(
            tmp_path, source=Mixed(long=()), model={"path": path}, template=VisualThinker()
        )
        return next(make_stream(dataclasses.replace(cfg, data=wide(cfg.data))))[0].prompt

    def wide(data):
        return dataclasses.replace(data, prompt_buckets=(512,))

    assert isinstance(prompt("Qwen/Qwen2-VL-2B"), str)
    assert isinstance(prompt("Qwen/Qwen2-VL-2B-Instruct"), list)


def test_a_resumed_run_lists_no_drop_twice(tmp_path):
    """Without a checkpoint the run begins again, and so do its lists."""
    for file in ("metrics.jsonl", "dropped.jsonl"):
        for step in (1, 2):
            MetricsWriter(tmp_path, file).write(step, {"id": "e3"})
    resume.go_on(make_config(tmp_path), Checkpoints(tmp_path, keep=1), {"w": np.zeros(3)})
    assert read_metrics(tmp_path) == read_metrics(tmp_path, "dropped.jsonl") == []


def test_a_config_made_in_python_is_checked_as_one_from_a_file(tmp_path):
    with pytest.raises(UserError, match="data.min_pixels = 9 is above data.max_pixels = 8"):
        setup.init_run(make_config(tmp_path, min_pixels=9, max_pixels=8))
    with pytest.raises(UserError, match="data.too_long: expected one of error, drop"):
        setup.init_run(make_config(tmp_path, too_long="cut"))
