# SPDX-License-Identifier: Apache-2.0
"""Every recipe of configs/papers puts its data to its model, has a line in docs/reproduction.md,
and is launched through the command line at toy sizes."""

import json
import re

import pytest

from jaxvl import config
from jaxvl.data import templates
from jaxvl.data.prompts import Processor
from jaxvl.data.tasks.vlaa import SOURCES, VLAA
from jaxvl.errors import UserError
from jaxvl.observe.metrics import read_metrics
from jaxvl.rewards.vlaa import VERIFIERS
from tests.data.published import write_sat, write_vlaa
from tests.tiny import make_checkpoint
from tests.wholes.launch import ROOT, command, launch, scorer

PAPERS = sorted((ROOT / "configs/papers").glob("*.py"))
BASE = ROOT / "configs/quickstart_base"
PAGE = ROOT / "docs/reproduction.md"
SIZES = ["data.prompt_buckets=768", "data.patch_buckets=64", "data.workers=0", "mesh.fsdp=1"]
# What the recipes differ in but for their rates is what is tried here; a rate is a constant of the
# compiled update, and with one for all of them it is compiled once.
SIZES += ["optim.lr=1e-6", "optim.min_lr=0", "optim.warmup_steps=0", "optim.schedule=constant"]
SIZES += ["optim.horizon=none", "run.steps=1", "run.export=false"]
GRPO = ["grpo.prompts=2", "grpo.group=2", "grpo.micro_batches=1", "sampling.max_new_tokens=8"]
SFT = ["sft.rows=2", "sft.micro_batches=1", "sft.target_length=256"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint of each family, and the data of each paper, under the names that recipes use."""
    folder = tmp_path_factory.mktemp("papers")
    for name in ("sat", "vlaa"):
        (folder / name).mkdir()
    found = {"sat": write_sat(folder / "sat", copies=4), "vlaa": folder / "vlaa"}
    write_vlaa(folder / "vlaa", "sft")
    write_vlaa(folder / "vlaa", "grpo")
    found["traces"] = write_rollouts(folder / "run", VLAA(found["vlaa"]).load())
    for family, name in (("qwen2_vl", "Qwen2-VL-2B"), ("qwen2_5_vl", "Qwen2.5-VL-3B-Instruct")):
        found[family] = make_checkpoint(folder / name, family=family, weights="old")
    return found


def write_rollouts(run, examples):
    """What a run leaves of its completions: of each question a right and short one, a right and
    longer one, a wrong one, and one that was cut off."""
    kinds = (("a", 1.0, "stop"), ("a, at length", 1.0, "stop"), ("no", 0.0, "stop"))
    kinds += (("a, without an end", 1.0, "length"),)
    lines = []
    for one in examples:
        texts = [(f"<think>{why}</think><answer>{one.answer}</answer>", *of) for why, *of in kinds]
        completions = [
            {"text": text, "tokens": len(text), "reward": reward, "finish_reason": reason}
            | {"rewards": {"mixed": reward}}
            for text, reward, reason in texts
        ]
        lines.append({"task": one.task, "id": one.id, "completions": completions})
    (run / "rollouts").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "rollouts/step_1.jsonl").write_text(text)
    return run


def words_of(path, world):
    """A recipe on what is here: a checkpoint of its model's family, data of its form, toy sizes."""
    cfg = config.load(path, [], config.Config, config.SFTConfig)
    base = "Qwen2.5" if "2.5" in cfg.model.path or "after_sft_" in path.stem else "Qwen2-VL"
    family = "qwen2_5_vl" if base == "Qwen2.5" else "qwen2_vl"
    sat = path.stem.startswith("visualthinker")
    where = "data.source.source.path" if "traces" in path.stem else "data.source.path"
    words = [f"model.path={world[family]}", f"{where}={world['sat' if sat else 'vlaa']}"]
    if "traces" in path.stem:
        words.append(f"data.source.runs={world['traces']}")
    if sat:
        asked = "Instruct" in cfg.model.path or path.stem.startswith("visualthinker_sft")
        words.append(f"data.template.base={str(not asked).lower()}")
    if isinstance(cfg, config.SFTConfig):
        return [*words, *SFT, *SIZES]
    words += [*GRPO, *SIZES]
    if cfg.grpo.mini_batches > 1:
        words.append("grpo.mini_batches=2")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_row_of_a_paper_starts(path, world, tmp_path):
    words = [command(path), f"configs/papers/{path.name}", *words_of(path, world)]
    text = path.read_text()
    if "benchmarks" in text:  # the benchmark's files are not here
        words.append("benchmarks=none")
    with scorer() as (url, _):
        if path.stem.startswith("vlaa") and command(path) == "grpo" and "scorer=none" not in text:
            words.append(f"rewards.0.fn.scorer.endpoint.url={url}")
        launch(*words, f"run.dir={tmp_path / 'run'}")
    (line,) = read_metrics(tmp_path / "run")
    assert line["step"] == 1 and line["grad_norm"] >= 0


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_row_of_a_paper_has_its_line_and_reads_its_data(path, world):
    """Its first example becomes a prompt with its image, for fine-tuning a target too; the page
    names the recipe, and the recipe what it is a row of, or that it is none."""
    assert f"configs/papers/{path.name}" in PAGE.read_text()
    doc = " ".join(path.read_text().split('"""')[1].split())
    cfg = config.load(path, words_of(path, world), config.Config, config.SFTConfig)
    example = cfg.data.source.load()[0]
    template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
    encoded = Processor.from_pretrained(BASE).encode(template(example), list(example.images))
    assert len(encoded.segments) > 0 and example.question in encoded.text
    if isinstance(cfg, config.SFTConfig):
        assert example.answer in cfg.sft.target(example)
    assert re.search(r"table \d|figures? \d|section \d|first versions|Not of the paper", doc)


def test_traces_are_right_and_short_or_all_that_ended(world):
    path = ROOT / "configs/papers/vlaa_sft_traces.py"
    short = config.load(path, words_of(path, world), config.SFTConfig)
    every = ["data.source.low=0", "data.source.longest=0", "data.source.every=true"]
    whole = config.load(path, [*words_of(path, world), *every], config.SFTConfig)
    found = [[cfg.sft.target(one) for one in cfg.data.source.load()] for cfg in (short, whole)]
    assert {text.split("</think>")[0] for text in found[0]} == {"<think>a"}
    assert {text.split("</think>")[0] for text in found[1]} == {
        "<think>a",
        "<think>a, at length",
        "<think>no",
    }
    assert len(found[1]) == 3 * len(found[0])


WARMUPS = (("5k", 40), ("10k", 79), ("25k_qwen2_5_3b", 190))


def test_a_recipe_on_a_subset_says_what_makes_it():
    made = "VLAA-Thinking-SFT-126K.json --out data/VLAA-Thinking"
    found = {file.stem: file.read_text() for file in PAPERS}
    subsets = {name: text for name, text in found.items() if "/sft-" in text}
    assert len(subsets) == 7
    assert [
        name
        for name, text in subsets.items()
        if f"curate select data/VLAA-Thinking/{made}" not in text
    ] == []
    with pytest.raises(UserError, match=r"sft-5K.jsonl; expected .*`jaxvl curate select .. --out"):
        VLAA("data/none/sft-5K.jsonl", "sft").files()


def test_rows_are_what_their_tables_say():
    def of(name):
        return config.load(ROOT / f"configs/papers/{name}.py", [], config.Config, config.SFTConfig)

    frozen = of("visualthinker_instruct_vision_frozen"), of("visualthinker_instruct_llm_frozen")
    assert [cfg.model.train for cfg in frozen] == [("text",), ("tower", "merger")]
    rates = [of(f"vlaa_{name}").optim for name in ("basic", "lr1", "lr2")]
    found = [(rate.min_lr, rate.warmup_steps) for rate in rates]
    assert found == [(0, 0), (8e-7, 0.1), (5e-7, 0.03)]
    kl1 = of("vlaa_kl1").grpo
    assert (kl1.beta, kl1.adaptive_kl.target) == (1e-2, 5e-3)
    for kind in ("digit", "mcq", "math", "iou"):
        cfg = of(f"vlaa_without_{kind}")
        rows = {SOURCES[source] for source in cfg.data.source.sources}
        assert rows == set(cfg.rewards[0].fn.only) == set(VERIFIERS) - {kind, "open"}
    names = [reward.name for reward in of("visualthinker_length").rewards]
    assert names == ["accuracy", "think_format", "length"]
    assert of("visualthinker_samples").data.source.first == 1000
    assert of("vlaa_sft_25k_qwen2_7b").run.steps == 190
    curves = of("visualthinker_curve"), of("visualthinker_sft_curve")
    # Both are stopped on the way of a schedule over two epochs.
    assert {(cfg.run.steps, cfg.optim.horizon) for cfg in curves} == {(1500, 3750)}
    assert [of(f"vlaa_sft_{name}").optim.span(steps)[0] for name, steps in WARMUPS] == [1, 2, 6]
    early = of("visualthinker_early")
    assert (early.sampling.max_new_tokens, early.data.max_pixels) == (128, 156_800)
