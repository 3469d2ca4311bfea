# SPDX-License-Identifier: Apache-2.0
"""Datasets in their published files, through preparation, into one step of training."""

import json
import types
from collections.abc import Callable

import jax
import pytest

from jaxvl.config import GRPO, SFT, Config, Data, Model, Reward, Run, Sampling, SFTConfig
from jaxvl.data import test_sets
from jaxvl.data.image import load_image
from jaxvl.data.prepare import prepare
from jaxvl.data.prepared import Prepared
from jaxvl.data.prompts import Processor
from jaxvl.data.tasks import sat, vlaa
from jaxvl.data.tasks.records import Records
from jaxvl.data.templates import VLAA_SYSTEM, VisualThinker, chat_question
from jaxvl.data.templates import vlaa as vlaa_prompt
from jaxvl.distributed.mesh import make_mesh
from jaxvl.errors import UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.rewards import accuracy, think_format
from jaxvl.train import grpo as train
from jaxvl.train import prompts, setup, sft
from tests.data.published import GRPO_ROWS, picture, write_sat, write_tsv, write_vlaa
from tests.data.test_intake import BAD_IMAGES
from tests.train.test_grpo import ROOT
from tests.train.test_prompts import make_config

MODEL = Model(path=str(ROOT / "configs/quickstart_base"), remat="products")


def make_data(source, template: Callable, **fields) -> Data:
    # one shape for all of them: they are compiled once
    return Data(source, template, prompt_buckets=(512,), patch_buckets=(64,), **fields)


def grpo(folder, source, template, *, trial=False, **fields):
    cfg = Config(
        model=MODEL,
        data=make_data(source, template, **fields),
        rewards=(Reward(accuracy), Reward(think_format)),
        sampling=Sampling(max_new_tokens=4),
        grpo=GRPO(prompts=4, group=2, beta=0.0),
        run=Run(dir=str(folder), steps=1, rollout_images=4, trial=trial),
    )
    train.train(cfg)
    rows = [json.loads(x) for x in (folder / "rollouts/step_1.jsonl").read_text().splitlines()]
    (line,) = read_metrics(folder)
    assert line["step"] == 1 and len(rows) == 4
    assert all(len(row["image_files"]) == 1 for row in rows)
    return {row["id"]: row for row in rows}


def prepared(tmp_path, name, source) -> Prepared:
    prepare(name, source, tmp_path / "set", shard=4)
    return Prepared(str(tmp_path / "set"))


def test_sat_as_published(tmp_path):
    source = sat.paper(str(write_sat(tmp_path, copies=4)))
    template = VisualThinker(base=True, literal=True)
    rows = grpo(tmp_path / "run", prepared(tmp_path, "sat", source), template)
    examples = {example.id: example for example in source.load()}
    for id, row in rows.items():
        assert row["prompt"] == template(examples[id])
        assert (row["answer"], row["task"]) == (examples[id].answer, "sat")


def test_vlaa_grpo_as_published(tmp_path):
    write_vlaa(tmp_path, more=[{**GRPO_ROWS[0], "gt": None}])
    source = prepared(tmp_path, "vlaa-grpo", vlaa.VLAA(str(tmp_path)))
    with pytest.raises(UserError, match="1 of 10 rows cannot be used, .*: 1 no answer"):
        grpo(tmp_path / "run", source, vlaa_prompt)
    rows = grpo(tmp_path / "run", source, vlaa_prompt, max_bad=0.1)
    for id, row in rows.items():
        question = GRPO_ROWS[int(id.removeprefix("grpo-"))]["question"]
        assert row["prompt"] == (
            f"<|im_start|>system\n{VLAA_SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            f"<|image_pad|><|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
        )
    (line,) = read_metrics(tmp_path / "run", "dropped.jsonl")
    assert (line["step"], line["id"], line["reason"]) == (0, "grpo-9", "no answer")
    assert "1 no answer" in (tmp_path / "run" / "report.html").read_text()


def fine_tune(folder, source, template, target, **run):
    cfg = SFTConfig(
        model=MODEL,
        data=make_data(source, template),
        sft=SFT(target=target, rows=4, target_length=128),
        run=Run(dir=str(folder), steps=1, **run),
    )
    sft.train(cfg)
    (line,) = read_metrics(folder)
    assert line["loss"] > 0 and line["data/dropped"] == 0


def test_vlaa_sft_as_published(tmp_path):
    source = prepared(tmp_path, "vlaa-sft", vlaa.VLAA(str(write_vlaa(tmp_path, "sft")), "sft"))
    fine_tune(tmp_path / "run", source, vlaa_prompt, vlaa.completion, export=False)


def test_a_tsv_as_published(tmp_path):
    table = write_tsv(tmp_path / "toy.tsv", count=8)
    source = Records(str(table), id="index", choices=("A", "B", "C"))
    source = prepared(tmp_path, "records", source)
    fine_tune(tmp_path / "run", source, chat_question, lambda e: e.answer, export=False)


def test_a_trial_on_a_test_set_is_marked_wherever_it_goes(tmp_path):
    lines = [{"question": f"Is it {n}?", "answer": "yes", "image": f"{n}.jpg"} for n in range(4)]
    folder = tmp_path / "MathVista"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(picture(number))
    (folder / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    work = Records(str(folder / "a.jsonl")), chat_question, lambda example: example.answer
    with pytest.raises(UserError, match="names the benchmark MathVista"):
        fine_tune(tmp_path / "run", *work)
    fine_tune(tmp_path / "run", *work, trial=True)
    for marked in (tmp_path / "run", tmp_path / "run" / "hf"):
        assert test_sets.marks(marked) == ["MathVista"]
    assert "Trained on test data: MathVista." in (tmp_path / "run" / "report.html").read_text()
    # what is trained on from there on carries the mark on
    cfg = make_config(tmp_path / "next", model={"path": str(tmp_path / "run" / "hf")})
    setup.init_run(cfg)
    assert test_sets.marks(tmp_path / "next") == ["MathVista"]


@pytest.fixture
def faulty(tmp_path):
    """Eight good rows, and one of every kind that cannot be used: {id: reason}."""
    good = {"question": "Is it?", "answer": "yes", "image": "0.jpg"}
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    (tmp_path / "test.jpg").write_bytes(picture(50))
    digest = test_sets.image_digest(load_image(picture(50)))
    test_sets.write(tmp_path / "digests.txt", "BLINK", [], [digest])
    rows = [{**good, "id": f"good{n}", "image": f"{n}.jpg"} for n in range(8)]
    bad = {"gold": "fails the check", "test": "of the test set BLINK", "number": "no question"}
    rows += [{**good, "id": "gold", "answer": "?"}, {**good, "id": "test", "image": "test.jpg"}]
    rows += [{**good, "id": "number", "question": 5}]
    for reason, data in BAD_IMAGES.items():
        name = f"{reason.replace(' ', '_')}.png"
        if isinstance(data, bytes):
            (tmp_path / name).write_bytes(data)
        rows.append({**good, "id": reason, "image": 3 if data == 3 else name})
        bad[reason] = reason
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return Records(str(tmp_path / "mine.jsonl")), bad


def stream(folder, source, **data):
    cfg = make_config(folder, source=source, check=lambda e: "no" * (e.answer == "?"), **data)
    mesh = make_mesh(devices=jax.devices()[:1])
    vlm = types.SimpleNamespace(processor=Processor.from_pretrained(MODEL.path), mesh=mesh)
    return prompts.PromptStream.of(cfg, vlm, cfg.grpo.prompts)


def test_bad_rows_of_every_kind_are_replaced_and_listed_and_end_no_run(faulty, tmp_path):
    source, bad = faulty
    files = (str(tmp_path / "digests.txt"),)
    drawn = stream(tmp_path / "run", source, max_bad=0.6, digests=files)
    items = [item for _ in range(12) for item in next(drawn)]  # 48 draws: every row a few times
    assert {item.example.id for item in items} == {f"good{n}" for n in range(8)}
    assert [item.position for item in items] == list(range(48))
    lines = read_metrics(tmp_path / "run", "dropped.jsonl")
    assert {line["id"]: line["reason"] for line in lines} == bad
    assert all(line["found"] and not line["setting"] for line in lines)
    early = {"no question", "image of a wrong type", "missing image file"}
    assert {line["reason"] for line in lines if line["step"] == 0} == early
    drawn.account.check()
    again = stream(tmp_path / "two", source, max_bad=0.6, digests=files, workers=0)
    assert [item.example.id for _ in range(12) for item in next(again)] == [
        item.example.id for item in items
    ]


def test_above_the_share_a_run_stops_and_says_what_is_wrong(faulty, tmp_path):
    source, _ = faulty
    with pytest.raises(UserError, match="3 of 17 rows cannot be used, .*data.max_bad = 0.1:"):
        stream(tmp_path / "one", source, max_bad=0.1).tell()
    drawn = stream(tmp_path / "two", source, max_bad=0.3)
    with pytest.raises(
        UserError, match="6 of 17 rows .*data.max_bad = 0.3: .*\n  row number: `quest"
    ):
        for _ in range(12):
            next(drawn)
