# SPDX-License-Identifier: Apache-2.0
"""The quickstart with its rewards dealt out at random: what training does without a signal."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from jaxvl import config as jaxvl_config
from jaxvl.config import Config, Reward
from jaxvl.rewards import accuracy, think_format


def shuffled(prompts, completions, completion_ids, **columns):
    """The true sums of both rewards, each given to some completion of the batch."""
    arguments = (prompts, completions, completion_ids)
    total = np.add(accuracy(*arguments, **columns), think_format(*arguments, **columns))
    order = np.random.default_rng(zlib.crc32(repr(completion_ids).encode()))
    return order.permutation(total).tolist()


def config() -> Config:
    true = jaxvl_config.load(Path(__file__).with_name("quickstart.py"))
    # The true rewards are logged and count for nothing.
    rewards = (Reward(accuracy, weight=0.0), Reward(think_format, weight=0.0), Reward(shuffled))
    run = dataclasses.replace(true.run, dir="runs/quickstart_control")
    return dataclasses.replace(true, rewards=rewards, run=run)
