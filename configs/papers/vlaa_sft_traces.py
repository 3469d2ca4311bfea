# SPDX-License-Identifier: Apache-2.0
"""Does SFT hurt because of what is imitated? SFT on a model's own traces, right and short ones.

jaxvl sft configs/papers/vlaa_sft_traces.py data.source.source.path=data/VLAA-Thinking

The traces are the completions of configs/vlaa.py in runs/vlaa: of each question the shortest that
got the full reward, of at most 512 tokens. Against it, all that the model wrote:
data.source.low=0 data.source.longest=0 data.source.every=true. Then RL from the export, as the
vlaa_after_sft recipes do. Otherwise as configs/vlaa_sft.py; one epoch. Not of the paper.
"""

import dataclasses
from pathlib import Path

from jaxvl import config as jaxvl_config
from jaxvl.config import SFTConfig
from jaxvl.data.tasks.vlaa import VLAA
from jaxvl.data.traces import Traces

BASE = Path(__file__).parents[1] / "vlaa_sft.py"
CHANGED = ["run.steps=0", "run.epochs=1", "run.dir=runs/vlaa_sft_traces"]


def config() -> SFTConfig:
    plain = jaxvl_config.load(BASE, CHANGED, SFTConfig)
    traces = Traces(VLAA("data/VLAA-Thinking"), runs=("runs/vlaa",), low=1.0, longest=512)
    return dataclasses.replace(plain, data=dataclasses.replace(plain.data, source=traces))
