# SPDX-License-Identifier: Apache-2.0
"""MOSSBench's 244 harmful counterparts: what a model refuses here is its safety, against which its
oversensitivity on `mossbench` is seen (`jaxvl.eval.mossbench.tradeoff`)."""

from __future__ import annotations

from jaxvl.eval.benchmarks.mossbench import CONTRAST

BENCHMARK = CONTRAST
