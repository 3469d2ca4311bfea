# SPDX-License-Identifier: Apache-2.0
"""What a step costs the host: every part, scaled to the config's sizes, without its data."""

import dataclasses
import functools
from pathlib import Path

import pytest

from jaxvl.config import Reward
from jaxvl.errors import UserError
from jaxvl.plan import host, show
from jaxvl.rewards import Mixed, accuracy, judged
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import graded
from tests.plan.small import small_config, small_sft, write_model

BASE = Path(__file__).parents[2] / "configs/quickstart_base"
DATA = 5  # parts that are the prompts'


def asks(**columns):
    raise AssertionError("a reward that is not jaxvl's is not called")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("host") / "Qwen2-VL-2B")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(host, "ROWS", 2)
    monkeypatch.setattr(host, "COMPLETIONS", 4)


def test_the_host_in_a_step(model):
    """Eight prompts of four completions; the model has no tokenizer, the data is not there."""
    cfg = small_config(model)
    judge = graded(Endpoint("http://localhost:1/x"), "m")
    rewards = (
        Reward(functools.partial(accuracy, literal=True)),
        Reward(Mixed(scorer=judge, only=("open",)), name="mixed"),
        Reward(functools.partial(judged, scorer=judge), name="asked"),
        Reward(asks),
    )
    found = host.plan_host(dataclasses.replace(cfg, rewards=rewards), "small", BASE)
    data, replies = found.parts[:DATA], found.parts[DATA:]
    assert {(part.measured, part.of, part.meanwhile) for part in data} == {(2, 8, "sampling")}
    assert [part.name for part in replies] == ["completions to text", "rewards", "audit"]
    assert {(part.measured, part.of) for part in replies} == {(4, 32)}
    assert all(part.a_step == part.seconds * part.of / part.measured for part in found.parts)
    assert found.patch_bytes == 8 * 256 * 588
    told = show.host_text(found)
    assert "the reward asked" in told and "the reward asks" in told and "mixed" not in told
    assert "the tokenizer of quickstart_base" in told


def test_fine_tuning_has_no_completions(model):
    """Rows are read ahead in threads while the devices update, and put together by the loop."""
    cfg = small_sft(model)
    packed = dataclasses.replace(cfg, sft=dataclasses.replace(cfg.sft, pack=True))
    for of in (cfg, packed):
        found = host.plan_host(of, "small", BASE)
        assert [part.meanwhile for part in found.parts] == ["update"] * (DATA - 1) + [""]
        assert found.parts[0].of == 8 and found.other_bytes > 0
        assert "devices wait for" in show.host_text(found)


def test_buckets_that_hold_no_image(model):
    cfg = small_config(model)
    small = dataclasses.replace(cfg.data, max_pixels=300, min_pixels=1)
    with pytest.raises(UserError, match="at most 300 pixels: they hold no image of 28 x 28"):
        host.plan_host(dataclasses.replace(cfg, data=small), "small", BASE)
