# SPDX-License-Identifier: Apache-2.0
"""Does the mixed reward depend on its reward model? configs/vlaa.py with a chat model as the judge.

jaxvl grpo configs/papers/vlaa_other_reward_model.py data.source.path=data/VLAA-Thinking

A server with OpenAI's chat interface grades open answers from 0 to 100, without seeing the
reference, in place of InternLM-XComposer2.5-Reward: rewards.0.fn.scorer.endpoint.url=.. and
rewards.0.fn.scorer.model=.. say which. Not of the paper.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import Config, Reward
from jaxvl.rewards import Mixed
from jaxvl.rewards.endpoint import Endpoint
from jaxvl.rewards.judge import graded
from jaxvl.rewards.rules import Frames

BASE = Path(__file__).parents[1] / "vlaa.py"
CHANGED = ["run.dir=runs/vlaa_other_reward_model"]
JUDGE = "http://localhost:8000/v1/chat/completions"


def config() -> Config:
    plain = jaxvl_config.load(BASE, CHANGED)
    mixed = Mixed(scorer=graded(Endpoint(JUDGE), "judge"), frames=Frames(model="family"))
    return dataclasses.replace(plain, rewards=(Reward(mixed, name="mixed"),))
