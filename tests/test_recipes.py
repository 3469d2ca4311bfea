# SPDX-License-Identifier: Apache-2.0
"""The papers' recipes load, validate and read the data that they are for."""

from pathlib import Path

import pytest

from jaxvl import config
from jaxvl.config import AdaptiveKL, Config, Grpo, SFTConfig
from jaxvl.config.validate import check_rows
from jaxvl.data import templates
from jaxvl.data.prompts import Processor
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
