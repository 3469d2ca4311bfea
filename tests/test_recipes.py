# SPDX-License-Identifier: Apache-2.0
"""The papers' recipes load, validate and read the data that they are for."""

import math
from pathlib import Path

import pytest

from jaxvl import config
from jaxvl.config import AdaptiveKL, Config, Grpo, SFTConfig
from jaxvl.config.validate import check_rows
from jaxvl.data import packing, templates
from jaxvl.data.prompts import Processor
from jaxvl.data.turns import Turn
from jaxvl.rl.learner import schedule
from jaxvl.train.setup import with_steps
from tests.data.published import write_sat, write_vlaa

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = {
    "visualthinker": Config,
    "visualthinker_sft": SFTConfig,
    "vlaa": Config,
    "vlaa_sft": SFTConfig,
}


@pytest.fixture
def recipe(tmp_path):
    def load(name):
        write = write_sat if name.startswith("visualthinker") else write_vlaa
        part = () if write is write_sat else ("sft" if name.endswith("sft") else "grpo",)
        path = write(tmp_path, *part)
        return config.load(CONFIGS / f"{name}.py", [f"data.source.path={path}"], KINDS[name])

    return load


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_puts_its_data_to_the_model(recipe, name):
    """The first example becomes a prompt that the template's own test knows to be right, and for
    fine-tuning a target; rows split over the devices that the recipe names."""
    cfg = recipe(name)
    example = cfg.data.source.load()[0]
    template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
    processor = Processor.from_pretrained(CONFIGS / "quickstart_base")
    encoded = processor.encode(template(example), list(example.images))
    assert len(encoded.segments) > 0 and example.question in encoded.text
    if isinstance(cfg, SFTConfig):
        assert example.answer in cfg.sft.target(example)
    check_rows(cfg.batch, 8 if name.startswith("vlaa") else 4)


def test_visualthinker_is_table_2_of_its_paper(recipe):
    cfg = recipe("visualthinker")
    grpo = cfg.grpo
    assert (grpo.prompts, grpo.group, grpo.updates, grpo.beta) == (8, 8, 1, 0.04)
    assert (grpo.kl, grpo.scale_rewards, type(grpo.loss)) == ("k3", "group", Grpo)
    assert (cfg.optim.lr, cfg.run.steps, cfg.sampling.max_new_tokens) == (1e-6, 1500, 700)
    assert cfg.optim.span(1500) == (0, 2 * 15_000 // 8)  # two epochs, as its script decays over
    assert (cfg.data.min_pixels, cfg.data.max_pixels) == (3136, 401408)
    assert (cfg.model.min_pixels, cfg.model.max_pixels) == (None, None)  # CV-Bench has no limit
    assert set(cfg.model.train) == {"tower", "merger", "text"}
    assert [(r.name, r.weight) for r in cfg.rewards] == [("accuracy", 1), ("think_format", 1)]
    prompt = templates.for_checkpoint(cfg.data.template, cfg.model.path)(cfg.data.source.load()[0])
    assert prompt.startswith(f"{templates.IMAGE}<image>A conversation between User and Assistant.")
    assert prompt.endswith("\nAssistant: Let me solve this step by step.\n<think>")


def test_vlaa_is_its_papers_best(recipe):
    cfg = recipe("vlaa")
    grpo = cfg.grpo
    assert (grpo.prompts, grpo.group, grpo.updates) == (512, 4, 8)
    assert grpo.prompts * grpo.group // grpo.mini_batches == 256
    assert (grpo.beta, grpo.adaptive_kl) == (1e-3, AdaptiveKL(5e-4, 10_000))
    assert (cfg.optim.schedule, cfg.optim.min_lr, cfg.run.steps) == ("cosine", 5e-7, 49)
    assert cfg.optim.span(49 * 8) == (12, 392)  # 3% of the updates
    assert cfg.sampling.temperature == 0.8
    assert recipe("vlaa_sft").model.train == ("merger", "text")


def learnt_of(cfg):
    """What the loss counts of a recipe's first example, and the example."""
    example = cfg.data.source.load()[0]
    template = templates.for_checkpoint(cfg.data.template, cfg.model.path)
    processor = Processor.from_pretrained(CONFIGS / "quickstart_base")
    encoded, turn = processor.encode(template(example), list(example.images)), Turn.of(processor)
    tail = turn.tail if cfg.sft.loss != "answer" else ()
    target = (*processor.tokenize(cfg.sft.target(example)), turn.end, *tail)
    uncounted = packing.placeholders(processor)
    text = packing.text(encoded, target, 0, cfg.sft.loss, turn.header, uncounted)
    return processor.tokenizer.decode(text.tokens_S[text.counts_S]), example


def test_visualthinkers_sft_learns_all_text_at_a_rate_that_falls_over_two_epochs(recipe):
    cfg = recipe("visualthinker_sft")
    text, example = learnt_of(cfg)
    # The user's words are learnt, and the turns' marks; the first token and the image are not.
    user, reply = text.split("<|im_end|>\n<|im_start|>assistant\n")
    assert user.startswith("user\n<image> Answer in natural language. ")
    assert example.question in user and reply == f"{example.answer}<|im_end|>\n"
    assert cfg.sft.rows == 8 and set(cfg.model.train) == {"tower", "merger", "text"}
    steps = 2 * 15_000 // 8
    rate = schedule(cfg.optim, steps)
    for step in (0, 1, 1000, steps - 1):  # transformers' linear schedule without a warm-up
        assert rate(step) == pytest.approx(2e-5 * (1 - step / steps), rel=1e-4)
    rows = len(cfg.data.source.load())
    assert cfg.run.epochs == 2 and with_steps(cfg).run.steps == -(-2 * rows // 8)


def test_vlaas_sft_learns_the_trace_alone_with_a_frozen_tower(recipe):
    cfg = recipe("vlaa_sft")
    text, example = learnt_of(cfg)
    assert text == f"{cfg.sft.target(example)}<|im_end|>"
    assert text.startswith("<think>") and example.question not in text
    assert (cfg.sft.rows, cfg.sft.loss, cfg.model.train) == (128, "answer", ("merger", "text"))
    assert cfg.run.steps == math.ceil(126_000 / 128) == 985
    rate = schedule(cfg.optim, 985)
    for step in (30, 500, 984):
        rest = (step - 30) / (985 - 30)
        assert rate(step) == pytest.approx(1e-5 * (1 + math.cos(math.pi * rest)) / 2, rel=1e-4)
    assert rate(0) == pytest.approx(1e-5 / 30)  # a warm-up of 30 updates, ours
